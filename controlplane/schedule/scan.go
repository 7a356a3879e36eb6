package schedule

// scan is placement without the index: it asks every filter about every pool.
// Place uses it where the index does not apply; the tests hold the index to it.
func scan(s *search, pools []*poolEntry) candidate {
	var best candidate
	for _, e := range pools {
		if filter, _ := s.refuse(e); filter != "" {
			continue
		}
		if c := s.candidate(e); c.better(best) {
			best = c
		}
	}
	return best
}
