package replicate

import (
	"strings"
	"time"

	"tarn/zfs"
)

// strangeAfter is how long a replica has to be unknown before what is kept for it
// here goes: assignments come late, and peers change sides in a promotion
// (zfs replication 2.5).
const strangeAfter = time.Hour

// strangers remembers since when replicas are unknown that holds or cursors here
// belong to. A restart forgets it: then they stay longer, never shorter.
type strangers struct {
	since map[string]time.Time
}

// note takes in who owns something here and who is known, and gives those that
// have been strange at every look for longer than strangeAfter.
func (s *strangers) note(owners []string, known map[string]bool, now time.Time) map[string]bool {
	next, late := map[string]time.Time{}, map[string]bool{}
	for _, id := range owners {
		if known[id] {
			continue
		}
		since, ok := s.since[id]
		if !ok {
			since = now
		}
		next[id] = since
		if now.Sub(since) > strangeAfter {
			late[id] = true
		}
	}
	s.since = next
	return late
}

// owner is the replica that a hold of tarn's belongs to; "" for other holds.
func owner(tag string) string {
	if id, ok := strings.CutPrefix(tag, holdStep); ok {
		return id
	}
	id, _ := strings.CutPrefix(tag, holdLast)
	if id == tag {
		return ""
	}
	return id
}

// owners are the replicas that holds and cursors here belong to.
func owners(versions []zfs.Version, tags map[string][]string) []string {
	var ids []string
	for _, list := range tags {
		for _, tag := range list {
			if id := owner(tag); id != "" {
				ids = append(ids, id)
			}
		}
	}
	for _, v := range versions {
		if id := cursorOwner(v); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// holdKinds counts holds for people: step, last, divergent, or foreign, which
// tarn never releases.
func holdKinds(tags map[string][]string) map[string]int {
	kinds := map[string]int{"step": 0, "last": 0, "divergent": 0, "foreign": 0}
	for _, list := range tags {
		for _, tag := range list {
			switch {
			case strings.HasPrefix(tag, holdStep):
				kinds["step"]++
			case strings.HasPrefix(tag, holdLast):
				kinds["last"]++
			case tag == holdDivergent:
				kinds["divergent"]++
			default:
				kinds["foreign"]++
			}
		}
	}
	return kinds
}
