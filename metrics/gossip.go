package metrics

import "github.com/prometheus/client_golang/prometheus"

func newGossipMembers(m maker) *prometheus.GaugeVec {
	return m.gauge("tarn_gossip_members", "Members of the gossip ring as this process sees it.", "state")
}

func newGossipRefused(m maker) *prometheus.CounterVec {
	return m.counter("tarn_gossip_refused_total", "Announcements of members that this process kept out of the ring.", "reason")
}

// RegisterGossipKeys collects how many keys of the gossip ring the process understands, at
// each scrape. Panics if that is registered already.
func RegisterGossipKeys(reg prometheus.Registerer, keys func() int) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tarn_gossip_keys", Help: "Keys of the gossip ring that this process understands: more than one while they are rotated.",
	}, func() float64 { return float64(keys()) }))
}
