package reconcile

import (
	"strings"
	"testing"
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestPurgeEndsWithItsHostsWord: an order stands while its host is silent or cannot
// carry it out, goes with one entry when it has, and the share's users hear of it.
func TestPurgeEndsWithItsHostsWord(t *testing.T) {
	p := &player{world: newWorld(t)}
	p.addHost("a", "az1", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	p.addShare("s", "a", "dr", 10*time.Second)
	p.run(3 * time.Second)
	for guid, share := range map[uint64]string{7: "s", 8: "gone"} {
		p.must(&raftv1.Command{Actor: "operator", Verb: &raftv1.Command_PurgeDivergentCopy{PurgeDivergentCopy: &raftv1.PurgeDivergentCopy{
			Order: &tarnv1.PurgeOrder{HostId: "a", Guid: guid, Dataset: "p/x", ShareId: share, ReplicaId: "former", Reason: "checked by hand"},
		}}})
	}
	standing := func() int {
		h, _ := p.fsm.View().Host("a")
		return len(h.GetPurges())
	}
	told := func() (n int) {
		for m := range p.fsm.View().Messages() {
			if strings.Contains(m.GetUserMessage(), "checked by hand") && m.GetResourceId() == "s" {
				n++
			}
		}
		return n
	}
	p.hosts["a"].obstacle = "a clone stands on it"
	p.run(3 * time.Second)
	p.hosts["a"].cut, p.hosts["a"].obstacle = true, ""
	p.run(time.Minute)
	if standing() != 2 || told() != 0 {
		t.Fatalf("%d orders stand, %d messages, though the host has not confirmed", standing(), told())
	}
	p.hosts["a"].cut = false
	p.mark = len(p.log)
	p.run(time.Minute)
	if standing() != 0 || told() != 1 {
		t.Errorf("%d orders stand, %d messages", standing(), told())
	}
	n := 0
	for _, cmd := range p.log[p.mark:] {
		n += len(cmd.GetTransitions().GetPurges())
	}
	if n != 2 {
		t.Errorf("%d orders were taken back in the log, want each once", n)
	}
	p.settles()
}
