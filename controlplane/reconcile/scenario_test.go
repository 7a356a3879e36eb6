package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestScenarios plays the dialogues of testdata: what happens, and what is to be
// seen then. Lines are commands of player.commands; # begins a comment.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := &player{world: newWorld(t)}
			for i, line := range strings.Split(string(text), "\n") {
				line, _, _ = strings.Cut(line, "#")
				if f := strings.Fields(line); len(f) > 0 {
					if err := p.play(f[0], f[1:]); err != nil {
						t.Fatalf("%s:%d: %s: %v", file, i+1, strings.TrimSpace(line), err)
					}
				}
			}
			p.settles()
		})
	}
}

type player struct {
	*world
	mark int
}

func (p *player) play(verb string, args []string) error {
	commands := map[string]func([]string) error{
		"host": p.host, "share": p.share, "replica": p.replica, "run": p.wait, "write": p.write, "snapshot": p.snapshot,
		"remove-snapshot": p.removeSnapshot, "cut": p.cutOff, "heal": p.heal, "busy": p.busy, "blind": p.blind, "slow": p.slow, "alone": p.alone, "resync": p.resync, "restart": p.restart, "promote": p.promotion, "cancel": p.cancel,
		"attest": p.attest, "quiesce": p.quiesce, "new-leader": p.newLeader, "admin": p.admin, "delete": p.remove, "resize": p.resizing,
		"fail": p.fail, "expect": p.expect, "phase": p.phase, "loss": p.loss, "message": p.messageIs, "snapshot-is": p.snapshotIs,
		"host-is": p.hostIs, "size": p.size, "replicas": p.replicas, "mark": p.marked, "entries": p.entries, "blocked": p.blocked,
		"spec": p.spec, "stonith": p.stonith, "shots": p.shots, "shot": p.shot, "waits": p.waits, "consent": p.consent,
		"by": p.by, "manage": p.manage, "unmanage": p.unmanage, "managed-replica": p.managedReplica,
	}
	f, ok := commands[verb]
	if !ok {
		return fmt.Errorf("unknown command")
	}
	return f(args)
}

func (p *player) host(a []string) error {
	class := tarnv1.FenceClass_FENCE_CLASS_HELPER
	if len(a) > 2 && a[2] == "unfenced" {
		class = tarnv1.FenceClass_FENCE_CLASS_NONE
	}
	p.addHost(a[0], a[1], class)
	return nil
}

func (p *player) share(a []string) error {
	rpo, err := time.ParseDuration(a[3])
	p.addShare(a[0], a[1], a[2], rpo)
	return err
}

// manage: manage SHARE HOST TYPE RPO takes dataset p/SHARE over.
func (p *player) manage(a []string) error {
	rpo, err := time.ParseDuration(a[3])
	p.addShareFrom("p/"+a[0], a[0], a[1], a[2], rpo)
	return err
}

// managedReplica: managed-replica SHARE HOST takes dataset p/SHARE of that host over.
func (p *player) managedReplica(a []string) error {
	return p.command(&raftv1.Command{Verb: &raftv1.Command_CreateReplica{CreateReplica: &raftv1.CreateReplica{
		Replica: &tarnv1.Replica{Id: a[0] + "-" + a[1], ShareId: a[0], HostId: a[1], Pool: "p", ManagedFrom: "p/" + a[0]},
	}}})
}

// unmanage: unmanage SHARE, or unmanage SHARE HOST for a replica.
func (p *player) unmanage(a []string) error {
	if len(a) > 1 {
		return p.command(&raftv1.Command{Verb: &raftv1.Command_UnmanageReplica{UnmanageReplica: &raftv1.UnmanageReplica{
			Id: p.replicaOn(a[0], a[1]).GetId(),
		}}})
	}
	return p.command(&raftv1.Command{Verb: &raftv1.Command_UnmanageShare{UnmanageShare: &raftv1.UnmanageShare{Id: a[0]}}})
}

func (p *player) replica(a []string) error {
	if r := p.addReplica(a[0], a[1]); r.Err != nil {
		return r.Err
	}
	return nil
}

func (p *player) wait(a []string) error {
	d, err := time.ParseDuration(a[0])
	p.run(d)
	return err
}

func (p *player) write(a []string) error {
	s, _ := p.fsm.View().Share(a[0])
	r, _ := p.fsm.View().Replica(s.GetFencing().GetOwnerReplicaId())
	p.hosts[r.GetHostId()].data[r.GetId()].dirty = true
	return nil
}

func (p *player) snapshot(a []string) error {
	if r := p.addSnapshot(a[0], a[1]); r.Err != nil {
		return r.Err
	}
	return nil
}

func (p *player) removeSnapshot(a []string) error {
	return p.command(&raftv1.Command{Verb: &raftv1.Command_DeleteSnapshot{DeleteSnapshot: &raftv1.DeleteSnapshot{Id: a[0]}}})
}

func (p *player) cutOff(a []string) error { p.hosts[a[0]].cut = true; return nil }
func (p *player) heal(a []string) error   { p.hosts[a[0]].cut = false; return nil }
func (p *player) busy(a []string) error   { p.hosts[a[0]].busy = len(a) < 2 || a[1] != "no"; return nil }
func (p *player) slow(a []string) error   { p.hosts[a[0]].slow = len(a) < 2 || a[1] != "no"; return nil }
func (p *player) alone(a []string) error {
	p.hosts[a[0]].alone = len(a) < 2 || a[1] != "no"
	return nil
}
func (p *player) blind(a []string) error {
	p.hosts[a[0]].blind = len(a) < 2 || a[1] != "no"
	return nil
}
func (p *player) newLeader([]string) error { p.lead(); return nil }
func (p *player) marked([]string) error    { p.mark = len(p.log); return nil }

// restart registers a new session of a host, which has not reported yet.
func (p *player) restart(a []string) error {
	old, _ := p.fsm.View().Host(a[0])
	h := proto.CloneOf(old)
	h.SessionId += "+"
	p.hosts[a[0]].session, p.hosts[a[0]].seq = h.GetSessionId(), 0
	return p.command(&raftv1.Command{Verb: &raftv1.Command_RegisterHost{RegisterHost: &raftv1.RegisterHost{Host: h}}})
}

// quiesce: quiesce SHARE DURATION limits the promotion that is running.
func (p *player) quiesce(a []string) error {
	d, err := time.ParseDuration(a[1])
	s, _ := p.fsm.View().Share(a[0])
	op := s.GetFencing().GetOpId()
	if prepared := s.GetFencing().GetPreparing(); prepared != nil {
		op = prepared.GetOpId()
	}
	p.soft.SetQuiesce(op, p.now.Add(d))
	return err
}

// promotion: promote SHARE HOST OP [force [MAX_LOSS]].
func (p *player) promotion(a []string) error {
	mode, limit := tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, time.Duration(0)
	if len(a) > 3 {
		mode = tarnv1.PromotionMode_PROMOTION_MODE_FORCED
	}
	if len(a) > 4 {
		limit, _ = time.ParseDuration(a[4])
	}
	if r := p.promote(a[0], a[1], a[2], mode, limit); r.Err != nil {
		return r.Err
	}
	return nil
}

func (p *player) cancel(a []string) error {
	return p.command(&raftv1.Command{Verb: &raftv1.Command_CancelPromotion{CancelPromotion: &raftv1.CancelPromotion{ShareId: a[0], OpId: a[1]}}})
}

func (p *player) resync(a []string) error {
	return p.command(&raftv1.Command{Verb: &raftv1.Command_ResyncReplica{ResyncReplica: &raftv1.ResyncReplica{Id: p.replicaOn(a[0], a[1]).GetId()}}})
}

func (p *player) admin(a []string) error {
	state := map[string]tarnv1.HostAdminState{"enabled": 1, "disabled": 2, "draining": 3}[a[1]]
	return p.command(&raftv1.Command{Verb: &raftv1.Command_SetHostAdminState{SetHostAdminState: &raftv1.SetHostAdminState{Id: a[0], AdminState: state}}})
}

func (p *player) remove(a []string) error {
	return p.command(deleteOf(p.replicaOn(a[0], a[1])))
}

func (p *player) resizing(a []string) error {
	n, err := strconv.ParseInt(a[1], 10, 64)
	if err != nil {
		return err
	}
	s, _ := p.fsm.View().Share(a[0])
	return p.command(&raftv1.Command{Verb: &raftv1.Command_ResizeShare{ResizeShare: &raftv1.ResizeShare{Id: a[0], NewSizeGib: n, Shrink: n < s.GetSizeGib()}}})
}

// fail: fail HOST CODE [retrying], or fail HOST no.
func (p *player) fail(a []string) error {
	if a[1] == "no" {
		p.hosts[a[0]].failing = nil
		return nil
	}
	code, ok := tarnv1.ReplicaErrorCode_value["REPLICA_ERROR_CODE_"+a[1]]
	if !ok {
		return fmt.Errorf("unknown code")
	}
	p.hosts[a[0]].failing = &tarnv1.ReplicaError{Code: tarnv1.ReplicaErrorCode(code), Retrying: len(a) > 2}
	return nil
}

func word(enum fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(enum.String(), prefix))
}

// expect: expect SHARE HOST STATUS [STATE], or expect SHARE HOST none.
func (p *player) expect(a []string) error {
	r := p.replicaOn(a[0], a[1])
	if r == nil {
		if a[2] == "none" {
			return nil
		}
		return fmt.Errorf("there is no such replica")
	}
	status, state := word(r.GetStatus(), "STATUS_"), word(r.GetReplicaState(), "REPLICA_STATE_")
	if status != a[2] || (len(a) > 3 && state != a[3]) {
		return fmt.Errorf("it is %s %s", status, state)
	}
	return nil
}

// phase: phase SHARE active|fencing EPOCH [OWNER-HOST].
func (p *player) phase(a []string) error {
	s, _ := p.fsm.View().Share(a[0])
	f := s.GetFencing()
	r, _ := p.fsm.View().Replica(f.GetOwnerReplicaId())
	got := []string{word(f.GetPhase(), "FENCING_PHASE_"), fmt.Sprint(f.GetEpoch()), r.GetHostId()}
	for i, want := range a[1:] {
		if got[i] != want {
			return fmt.Errorf("it is %v, proof %v", got, f.GetProof())
		}
	}
	return nil
}

// loss: loss SHARE BOUND SNAPSHOTS [max KEPT_AGE].
func (p *player) loss(a []string) error {
	s, _ := p.fsm.View().Share(a[0])
	l := s.GetFencing().GetLoss()
	if l == nil || l.GetBound() != a[1] || fmt.Sprint(len(l.GetLostSnapshots())) != a[2] {
		return fmt.Errorf("the report is %v", l)
	}
	if len(a) > 4 {
		if limit, _ := time.ParseDuration(a[4]); l.GetKeptAge().AsDuration() > limit {
			return fmt.Errorf("the report is %v", l)
		}
	}
	return nil
}

// messageIs: message COUNT TEXT...: so many messages contain the text.
func (p *player) messageIs(a []string) error {
	n := 0
	for m := range p.fsm.View().Messages() {
		if strings.Contains(m.GetUserMessage(), strings.Join(a[1:], " ")) {
			n++
		}
	}
	if fmt.Sprint(n) != a[0] {
		return fmt.Errorf("%d messages say so", n)
	}
	return nil
}

func (p *player) snapshotIs(a []string) error {
	s, ok := p.fsm.View().Snapshot(a[0])
	got := "gone"
	if ok {
		got = word(p.fsm.View().SnapshotStatus(s), "STATUS_")
	}
	if got != a[1] {
		return fmt.Errorf("it is %s", got)
	}
	return nil
}

func (p *player) hostIs(a []string) error {
	h, _ := p.fsm.View().Host(a[0])
	if got := word(h.GetState(), "HOST_STATE_"); got != a[1] {
		return fmt.Errorf("it is %s", got)
	}
	return nil
}

func (p *player) size(a []string) error {
	s, _ := p.fsm.View().Share(a[0])
	if got := fmt.Sprint(s.GetSizeGib()); got != a[1] {
		return fmt.Errorf("it is %s GiB", got)
	}
	return nil
}

// replicas: replicas SHARE HOST... in any order.
func (p *player) replicas(a []string) error {
	have := p.fsm.View().ReplicasOfShare(a[0])
	for _, host := range a[1:] {
		if p.replicaOn(a[0], host) == nil {
			return fmt.Errorf("none on %s", host)
		}
	}
	if len(have) != len(a)-1 {
		return fmt.Errorf("%d replicas", len(have))
	}
	return nil
}

// entries: entries MAX since the mark.
func (p *player) entries(a []string) error {
	limit, err := strconv.Atoi(a[0])
	if n := len(p.log) - p.mark; n > limit {
		return fmt.Errorf("%d log entries, the last: %v", n, p.log[len(p.log)-1])
	}
	return err
}

// blocked: blocked HOST TEXT...: a blocker of the drain contains the text.
func (p *player) blocked(a []string) error {
	list := DrainBlockers(p.policy, p.fsm.View(), p.soft.Snapshot(p.now, p.leases), a[0])
	for _, s := range list {
		if strings.Contains(s, strings.Join(a[1:], " ")) {
			return nil
		}
	}
	return fmt.Errorf("blockers are %q", list)
}
