package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// block is a fenced block of docs/operations.md with the section that it stands in.
type block struct{ section, kind, text string }

// runbooks reads every block of the document. All of them are commands, and have a kind.
func runbooks(t *testing.T) []block {
	t.Helper()
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	section := ""
	for _, m := range regexp.MustCompile("(?ms)^(#+) ([^\n]+)$|^```([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(string(doc), -1) {
		if m[1] != "" {
			section = m[2]
			continue
		}
		if !slices.Contains([]string{"sh", "sh host", "sh restore"}, m[3]) {
			t.Errorf("section %s has a block of kind %q, which no test runs", section, m[3])
		}
		all = append(all, block{section, m[3], m[4]})
	}
	return all
}

// operator is who follows the runbooks: a shell with the program in its path and the
// variables that the document names.
type operator struct {
	*failover
	env map[string]string
	ran map[string]int // blocks by section
}

// follow runs the blocks of one section, in their order.
func (o *operator) follow(kind, section string) {
	o.t.Helper()
	found := false
	for _, b := range runbooks(o.t) {
		if b.kind != kind || b.section != section {
			continue
		}
		found = true
		ctx, cancel := context.WithTimeout(o.t.Context(), 3*time.Minute)
		cmd := exec.CommandContext(ctx, "bash", "-euc", b.text)
		cmd.Env = append(os.Environ(), "TARN_CONFIG="+o.ClientConfig(), "TARN_PROJECT=", "TARN_DEV=")
		for name, value := range o.env {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			o.t.Fatalf("%s: %v\n%s\n%s", section, err, b.text, out)
		}
		o.ran[section]++
	}
	if !found {
		o.t.Errorf("section %q has no block of kind %q", section, kind)
	}
}

// Every command of docs/operations.md that is for a cluster does what the document says,
// as it stands: first what only looks, then what changes, then what happens to a cluster.
func TestRunbooks(t *testing.T) {
	o := &operator{
		failover: &failover{cluster: start(t, dev.Options{Servers: 3, Agents: 3, Zones: 3})},
		env:      map[string]string{}, ran: map[string]int{},
	}
	o.prepareRunbooks()
	special := []string{"Lost host", "Compromised host", "Divergent copy", "Full pool", "Restore", "Newer than the backup", "Unknown to the backup"}
	for _, b := range runbooks(t) {
		if b.kind == "sh" && !slices.Contains(special, b.section) && o.ran[b.section] == 0 {
			o.follow("sh", b.section)
			o.env["DIR"] = t.TempDir()
		}
	}
	o.compromisedHost()
	o.lostHost()
	o.divergentCopy()
	o.follow("sh", "Full pool")
	o.restored()
	for _, b := range runbooks(t) {
		if b.kind == "sh" && o.ran[b.section] == 0 {
			t.Errorf("section %s was not run", b.section)
		}
	}
}

// prepareRunbooks makes a share with a copy, and says who is who.
func (o *operator) prepareRunbooks() {
	o.t.Helper()
	o.must("share-type", "create", "gold", "--replication-type", "readable", "--rpo", "10s")
	o.share = strings.TrimSpace(o.must("-q", "share", "create", "web", "--type", "gold", "--size", "1", "--zone", "az1", "--wait"))
	o.active = o.replicaAt(o.share, "az1", isWritable)
	o.oldDir = o.active.GetObserved().GetMountpoint()
	if err := o.diary.write(o.oldDir, 5); err != nil {
		o.t.Fatal(err)
	}
	o.must("replica", "create", "web", "--zone", "az2", "--wait")
	path := filepath.Join(o.t.TempDir(), "tarn")
	if err := os.Symlink(suite.binary, path); err != nil {
		o.t.Fatal(err)
	}
	o.env = map[string]string{
		"PATH": filepath.Dir(path) + ":" + os.Getenv("PATH"), "SHARE": "web", "ZONE": "az2", "HOST": o.hostIn("az1"),
		"DIR": o.t.TempDir(), "CA": filepath.Join(o.Dir(), "pki", "ca"),
	}
}

func (o *operator) hostIn(zone string) string {
	for _, n := range o.Nodes() {
		if n.Kind == dev.Agent && n.Zone == zone {
			return n.Name
		}
	}
	o.t.Fatalf("no host in %s", zone)
	return ""
}

// lostHost kills the primary's host after writes that no copy has, and follows the book.
func (o *operator) lostHost() {
	o.t.Helper()
	o.copy = o.replicaAt(o.share, "az2", isInSync)
	receiver := o.env["HOST2"]
	if receiver == "" {
		receiver = o.hostIn("az2")
	}
	if err := o.Kill(o.t.Context(), receiver); err != nil {
		o.t.Fatal(err)
	}
	if err := o.diary.write(o.oldDir, 5); err != nil { // only the primary has these
		o.t.Fatal(err)
	}
	o.snapshotAlone()
	if err := errors.Join(o.Kill(o.t.Context(), o.env["HOST"]), o.Start(receiver)); err != nil {
		o.t.Fatal(err)
	}
	o.eventually(time.Minute, "the copy's host is back", func(context.Context) error {
		if out := o.must("host", "list", "--state", "up"); !strings.Contains(out, receiver) {
			return errors.New(out)
		}
		return nil
	})
	o.follow("sh", "Lost host")
	o.must("host", "enable", o.env["HOST"])
	if err := o.Start(o.env["HOST"]); err != nil {
		o.t.Fatal(err)
	}
}

// compromisedHost revokes a host that has nothing to do with the share; all others hear of it.
func (o *operator) compromisedHost() {
	o.t.Helper()
	host := o.env["HOST"]
	defer func() { o.env["HOST"] = host }()
	o.env["HOST"] = o.hostIn("az3")
	id := strings.TrimSpace(o.must("-q", "host", "show", o.env["HOST"]))
	o.follow("sh", "Compromised host")
	for _, n := range o.Nodes() {
		if n.Kind != dev.Agent || n.Name == o.env["HOST"] {
			continue
		}
		o.eventually(30*time.Second, n.Name+" refuses the host", func(context.Context) error {
			list, err := os.ReadFile(filepath.Join(o.Dir(), "nodes", n.Name, "revoked_identities"))
			if err == nil && !strings.Contains(string(list), id) {
				err = errors.New(string(list))
			}
			return err
		})
	}
}

// snapshotAlone waits until the primary itself has a snapshot of its last writes.
func (o *operator) snapshotAlone() {
	o.t.Helper()
	before := o.active.GetHeadGuid()
	o.eventually(time.Minute, "the primary has a new head", func(context.Context) error {
		for _, r := range o.listed() {
			if r.GetId() == o.active.GetId() && r.GetObserved().GetHeadGuid() != before {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

func (o *operator) listed() []*tarnv1.Replica {
	list, err := o.replicas(o.t.Context())
	if err != nil {
		o.t.Log(err)
	}
	return list
}

// divergentCopy waits for what the old host keeps aside, and purges it by the book.
func (o *operator) divergentCopy() {
	o.t.Helper()
	o.eventually(90*time.Second, "a divergent copy", func(context.Context) error {
		o.env["GUID"] = strings.TrimSpace(o.must("-q", "replica", "divergent", "list", "web"))
		if o.env["GUID"] == "" {
			return errors.New("none")
		}
		return nil
	})
	o.follow("sh", "Divergent copy")
	o.eventually(time.Minute, "it is purged", func(context.Context) error {
		if left := strings.TrimSpace(o.must("-q", "replica", "divergent", "list", "web")); left != "" {
			return fmt.Errorf("still there: %s", left)
		}
		return nil
	})
}

// restored saves the state, loses every control-plane node, and starts again from it.
func (o *operator) restored() {
	o.t.Helper()
	o.env["DIR"] = o.t.TempDir()
	o.must("share", "create", "late", "--type", "gold", "--size", "1", "--zone", "az1", "--wait")
	o.must("share", "create", "later", "--type", "gold", "--size", "1", "--zone", "az1", "--wait")
	o.follow("sh", "Restore")
	unknown := map[string]string{"late": o.moveAway("late"), "later": o.moveAway("later")}
	// What the backup does not know: the other replica becomes the active one.
	var next string
	o.eventually(time.Minute, "a copy that is in sync", func(context.Context) error {
		zones := map[string]int{}
		for _, r := range o.listed() {
			if r.GetShareId() == o.share {
				zones[r.GetAvailabilityZone()]++
			}
		}
		for _, r := range o.listed() {
			// SHARE/ZONE has to name one.
			if r.GetShareId() == o.share && zones[r.GetAvailabilityZone()] == 1 && isInSync(r) == nil {
				next = r.GetAvailabilityZone()
				return nil
			}
		}
		if zones["az1"] == 0 { // drained by the book, and nowhere else to go than beside the other
			o.tarn("replica", "create", "web", "--zone", "az1")
		}
		return fmt.Errorf("none that is alone in its zone: %v", zones)
	})
	o.env["ZONE"] = next
	o.must("replica", "promote", "web/"+next, "--wait", "--timeout", "2m")
	o.copy = o.replicaAt(o.share, next, isWritable)
	late := &diary{entries: slices.Clone(o.diary.entries)} // for other names
	if err := late.write(o.copy.GetObserved().GetMountpoint(), 5); err != nil {
		o.t.Fatal(err)
	}
	late.entries = late.entries[len(o.diary.entries):]
	var first dev.Node
	for _, n := range o.Nodes() {
		if n.Kind != dev.Control {
			continue
		}
		if first.Name == "" {
			first = n
		}
		if err := o.Kill(o.t.Context(), n.Name); err != nil {
			o.t.Fatal(err)
		}
	}
	o.env["CONFIG"], o.env["DATA"] = filepath.Join(o.Dir(), "config", first.Name+".toml"), filepath.Join(o.Dir(), "nodes", first.Name)
	o.env["PKI"], o.env["ADDRESS"] = filepath.Join(o.Dir(), "pki", first.Name), first.IP
	o.follow("sh restore", "Restore")
	if err := o.Start(first.Name); err != nil {
		o.t.Fatal(err)
	}
	o.eventually(90*time.Second, "the promotion is found", func(context.Context) error {
		if s := o.tarn("share", "show", "web"); s.code != 0 || !strings.Contains(s.stdout, o.copy.GetId()+" in zone "+next) || !strings.Contains(s.stdout, "promote that one with --force") {
			return errors.New(s.stdout + s.stderr)
		}
		return nil
	})
	o.follow("sh", "Newer than the backup")
	o.eventually(90*time.Second, "the share is served again by who had it last", func(context.Context) error {
		if s := o.tarn("share", "show", "web"); s.code != 0 || !strings.Contains(s.stdout, "and takes writes") || !strings.Contains(s.stdout, "zone "+next) {
			return errors.New(s.stdout + s.stderr)
		}
		return nil
	})
	if err := late.whole(o.replicaAt(o.share, next, isWritable).GetObserved().GetMountpoint()); err != nil {
		o.t.Errorf("what was written after the backup: %v", err)
	}
	o.unknown(unknown)
}

// moveAway makes a replica of a share in zone az2 and promotes it; its id.
func (o *operator) moveAway(share string) string {
	o.t.Helper()
	o.must("replica", "create", share, "--zone", "az2", "--wait")
	o.must("replica", "promote", share+"/az2", "--wait", "--timeout", "2m")
	r := o.replicaAt(o.idOf(share), "az2", isWritable)
	if err := os.WriteFile(filepath.Join(r.GetObserved().GetMountpoint(), "after-the-backup"), []byte(share), 0o644); err != nil {
		o.t.Fatal(err)
	}
	return r.GetId()
}

func (o *operator) idOf(share string) string {
	o.t.Helper()
	return strings.TrimSpace(o.must("-q", "share", "show", share))
}

// unknown follows the book for replicas that the restored state does not know: one becomes
// the active one again with what was written there, one is left behind.
func (o *operator) unknown(replicas map[string]string) {
	o.t.Helper()
	for share, id := range replicas {
		o.eventually(90*time.Second, "share "+share+" is served by nobody", func(context.Context) error {
			if s := o.tarn("share", "show", share); s.code != 0 || !strings.Contains(s.stdout, "tarn replica unknown adopt "+id) {
				return errors.New(s.stdout + s.stderr)
			}
			return nil
		})
	}
	o.env["SHARE"], o.env["ZONE"], o.env["UNKNOWN"], o.env["LOST"] = "late", "az2", replicas["late"], replicas["later"]
	o.follow("sh", "Unknown to the backup")
	r := o.replicaAt(o.idOf("late"), "az2", isWritable)
	if text, err := os.ReadFile(filepath.Join(r.GetObserved().GetMountpoint(), "after-the-backup")); err != nil || string(text) != "late" {
		o.t.Errorf("what was written after the backup: %q, %v", text, err)
	}
	o.replicaAt(o.idOf("later"), "az1", isWritable)
	if list := o.must("replica", "unknown", "list"); !strings.Contains(list, replicas["later"]) {
		o.t.Errorf("what was left behind is not listed any more:\n%s", list)
	}
}
