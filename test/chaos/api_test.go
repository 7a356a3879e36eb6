package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"tarn/cmd/tarn/dev"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

const (
	apiClients = 64
	killEvery  = 20 * time.Second
	// Names are used for a while and then left, so that each has a short history.
	namesAtOnce = 24
	nameLives   = 4 * time.Second
	// callPatience is how long a user looks for somebody who answers, attemptPatience how
	// long for one answer.
	callPatience    = 20 * time.Second
	attemptPatience = 5 * time.Second
)

// apiUser is one of many callers, who remember what they asked and were told. Half of
// them call nodes by themselves and repeat nothing. The others use tarn's client, which
// repeats, with a key, whatever it got no answer to: that may be done once only, however
// often it is asked and whoever changes the same in between.
type apiUser struct {
	number  int
	nodes   []tarnv1connect.ShareTypeServiceClient
	through tarnv1connect.ShareTypeServiceClient // tarn's client; nil for none
	asking  int                                  // the node that is believed to lead
	begun   time.Time
	chance  *rand.Rand
	history []porcupine.Operation
	// last seen records, by name.
	known map[string]answered
	odd   []error
}

// 64 clients use the API while its leader is killed every 20 s: no answer is wrong,
// and how long nothing could be changed is measured for each kill.
func TestAPIIsLinearizableWhileLeadersDie(t *testing.T) {
	a := newArenaOn(t, dev.Options{Servers: 3, Agents: 1, Zones: 1}, auditDisk)
	ctx, cancel := context.WithTimeout(t.Context(), suite.api)
	defer cancel()
	nodes := a.plainClients()
	begun := time.Now()
	users := make([]*apiUser, apiClients)
	var all sync.WaitGroup
	for i := range users {
		users[i] = &apiUser{number: i, nodes: nodes, through: [...]tarnv1connect.ShareTypeServiceClient{nil, a.api.ShareTypes}[i%2], begun: begun, chance: rand.New(rand.NewPCG(suite.seed, uint64(i))), known: map[string]answered{}}
		all.Go(func() { users[i].run(ctx) })
	}
	kills := a.killLeaders(ctx)
	all.Wait()
	if err := a.StartAll(); err != nil {
		t.Fatal(err)
	}
	var history []porcupine.Operation
	for _, u := range users {
		history = append(history, u.history...)
		for _, err := range u.odd {
			t.Error(err)
		}
	}
	tellOutages(t, history, begun, kills)
	judge(t, history)
}

// plainClients call one control node each, and repeat nothing.
func (a *arena) plainClients() []tarnv1connect.ShareTypeServiceClient {
	a.t.Helper()
	material, err := identity.LoadMaterial(filepath.Join(a.Dir(), "pki", "operator"))
	if err != nil {
		a.t.Fatal(err)
	}
	transport := &http.Transport{
		TLSClientConfig: material.ClientConfig(identity.RoleControl), ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: time.Second},
	}
	a.t.Cleanup(transport.CloseIdleConnections)
	var out []tarnv1connect.ShareTypeServiceClient
	for _, name := range a.names(dev.Control) {
		n, err := a.Node(name)
		if err != nil {
			a.t.Fatal(err)
		}
		out = append(out, tarnv1connect.NewShareTypeServiceClient(&http.Client{Transport: transport}, "https://"+n.Address()))
	}
	return out
}

// killLeaders kills the leader again and again, and tells when.
func (a *arena) killLeaders(ctx context.Context) (kills []time.Time) {
	for wait(ctx, killEvery/2) {
		leader, err := a.leader(ctx)
		if err == nil {
			kills = append(kills, time.Now())
			err = a.Kill(context.WithoutCancel(ctx), leader)
		}
		if err != nil {
			a.t.Logf("no leader was killed: %v", err)
		}
		wait(ctx, killEvery/2)
		if err := a.StartAll(); err != nil {
			a.t.Error(err)
		}
	}
	return kills
}

func (u *apiUser) run(ctx context.Context) {
	for wait(ctx, 20*time.Millisecond+time.Duration(u.chance.Int64N(int64(100*time.Millisecond)))) {
		q := u.choose()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), callPatience)
		called := time.Since(u.begun)
		a, err := u.ask(limited, q)
		returned := time.Since(u.begun)
		cancel()
		if err != nil {
			u.odd = append(u.odd, fmt.Errorf("%s of %s: %w", q.op, q.name, err))
		}
		op := porcupine.Operation{ClientId: u.number, Input: q, Call: int64(called), Output: a, Return: int64(returned)}
		if a.outcome == outUnknown {
			if q.op == opGet {
				continue // changes nothing, says nothing
			}
			op.Return = math.MaxInt64
		}
		u.history = append(u.history, op)
		switch {
		case a.outcome == outOK && q.op != opDelete:
			u.known[q.name] = a
		case q.op == opDelete, a.outcome == outNotFound:
			delete(u.known, q.name)
		}
	}
}

// choose draws what to ask, mostly about records that were seen.
func (u *apiUser) choose() asked {
	name := fmt.Sprintf("n%d-%d", time.Since(u.begun)/nameLives, u.chance.IntN(namesAtOnce))
	q := asked{name: name, value: fmt.Sprint(u.number, "-", len(u.history))}
	known, seen := u.known[name]
	q.id, q.revision = known.id, known.revision
	switch n := u.chance.IntN(10); {
	case n < 4, !seen && n < 8:
		q = asked{op: opGet, name: name}
	case !seen:
		q.op, q.id, q.revision = opCreate, uuid.NewString(), 0
	case n < 7:
		q.op, q.revision = opUpdate, 0
	case n < 9:
		q.op = opCompare
	default:
		q.op, q.value, q.revision = opDelete, "", 0
	}
	return q
}

// askThrough leaves the search for the leader, and the repeating, to tarn's client.
func (u *apiUser) askThrough(ctx context.Context, q asked) (answered, error) {
	t, err := u.send(ctx, u.through, q)
	a := answered{id: t.GetId(), value: t.GetDescription(), revision: t.GetRevision()}
	_, elsewhere := client.Detail[*tarnv1.NotLeader](err)
	if code := connect.CodeOf(err); err != nil && (elsewhere || !connect.IsWireError(err) || code == connect.CodeUnavailable || code == connect.CodeDeadlineExceeded) {
		return a, nil // for longer than it has patience
	}
	return a, a.judge(err)
}

// judge reads the outcome from an answer; the error is one that nobody should get.
func (a *answered) judge(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeNotFound:
		a.outcome = outNotFound
	case connect.CodeAlreadyExists:
		a.outcome = outExists
	case connect.CodeAborted:
		a.outcome = outAborted
	default:
		if err == nil {
			a.outcome = outOK
		}
		return err
	}
	return nil
}

// ask looks for the leader for as long as it is sure that nothing has happened. An error
// is an answer that nobody should get.
func (u *apiUser) ask(ctx context.Context, q asked) (answered, error) {
	if u.through != nil {
		return u.askThrough(ctx, q)
	}
	for {
		t, err := u.call(ctx, q)
		a := answered{id: t.GetId(), value: t.GetDescription(), revision: t.GetRevision()}
		_, elsewhere := client.Detail[*tarnv1.NotLeader](err)
		switch code := connect.CodeOf(err); {
		case err == nil:
			return a, a.judge(nil)
		case elsewhere, errors.Is(err, syscall.ECONNREFUSED):
			u.asking = (u.asking + 1) % len(u.nodes)
			if !wait(ctx, 50*time.Millisecond) {
				return a, nil
			}
			continue
		case !connect.IsWireError(err), code == connect.CodeUnavailable, code == connect.CodeDeadlineExceeded:
			u.asking = (u.asking + 1) % len(u.nodes)
			return a, nil
		}
		return a, a.judge(err)
	}
}

// call is one call of one node.
func (u *apiUser) call(ctx context.Context, q asked) (*tarnv1.ShareType, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptPatience)
	defer cancel()
	return u.send(ctx, u.nodes[u.asking], q)
}

func (u *apiUser) send(ctx context.Context, api tarnv1connect.ShareTypeServiceClient, q asked) (*tarnv1.ShareType, error) {
	switch q.op {
	case opGet:
		return api.GetShareType(ctx, &tarnv1.GetRequest{Id: q.name})
	case opCreate:
		return api.CreateShareType(ctx, &tarnv1.CreateShareTypeRequest{
			Id: q.id, Name: q.name, Description: q.value, ExtraSpecs: map[string]string{"driver_handles_share_servers": "false"},
		})
	case opUpdate, opCompare:
		return api.UpdateShareType(ctx, &tarnv1.UpdateShareTypeRequest{Id: q.id, Description: &q.value, Revision: q.revision})
	}
	_, err := api.DeleteShareType(ctx, &tarnv1.GetRequest{Id: q.id})
	return nil, err
}

// tellOutages prints for how long nobody could change anything around each kill.
func tellOutages(t *testing.T, history []porcupine.Operation, begun time.Time, kills []time.Time) {
	t.Helper()
	var done []time.Duration
	outcomes := map[outcome]int{}
	for _, op := range history {
		a := op.Output.(answered)
		outcomes[a.outcome]++
		if a.outcome == outOK && op.Input.(asked).op != opGet {
			done = append(done, time.Duration(op.Return))
		}
	}
	slices.Sort(done)
	var outages []time.Duration
	for _, k := range kills {
		at := k.Sub(begun)
		i, _ := slices.BinarySearch(done, at)
		var longest time.Duration
		for ; i < len(done) && done[i] < at+killEvery/2; i++ {
			last := at
			if i > 0 {
				last = max(last, done[i-1])
			}
			longest = max(longest, done[i]-last)
		}
		outages = append(outages, longest.Round(time.Millisecond))
	}
	t.Logf("%d calls: %v", len(history), outcomes)
	t.Logf("%d leaders killed; no change went through for %v", len(kills), outages)
	if len(outages) > 0 {
		slices.Sort(outages)
		t.Logf("median %s, longest %s", outages[len(outages)/2], outages[len(outages)-1])
	}
	if len(kills) == 0 || outcomes[outOK] < 1000 {
		t.Error("too little happened to prove anything")
	}
}

// judge looks for an order of all calls that explains all answers, name by name.
func judge(t *testing.T, history []porcupine.Operation) {
	t.Helper()
	model, wrong := registers(), 0
	for _, ops := range model.Partition(history) {
		verdict, info := porcupine.CheckOperationsVerbose(model, ops, 5*time.Minute)
		if verdict == porcupine.Ok {
			continue
		}
		wrong++
		if wrong > 3 {
			continue
		}
		t.Errorf("the history of %s is %s:\n%s", ops[0].Input.(asked).name, verdict, tell(model, ops))
		if dir := os.Getenv("CHAOS_LOGS"); dir != "" {
			if err := porcupine.VisualizePath(model, info, filepath.Join(dir, fmt.Sprintf("api%d.html", wrong))); err != nil {
				t.Error(err)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d names have a history that cannot be", wrong)
	}
}

// tell lists calls by their begin.
func tell(model porcupine.Model, ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, op := range ops {
		end := "?"
		if op.Return != math.MaxInt64 {
			end = time.Duration(op.Return).Round(time.Microsecond).String()
		}
		fmt.Fprintf(&b, "%12s %12s  client %d: %s\n", time.Duration(op.Call).Round(time.Microsecond), end, op.ClientId, model.DescribeOperation(op.Input, op.Output))
	}
	return b.String()
}
