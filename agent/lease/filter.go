package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// FilterConfig is the kernel's packet filter (nftables) before the ports of an NFS server.
type FilterConfig struct {
	// Nft is the program, with its absolute path, and arguments before the filter's own.
	Nft []string `json:"nft"`
	// Ports that are let in only while a right to write lasts, TCP and UDP.
	Ports []int `json:"ports"`
}

// Validate checks that there is a program and at least one port.
func (c FilterConfig) Validate() error {
	if len(c.Nft) == 0 || !filepath.IsAbs(c.Nft[0]) {
		return errors.New("packet filter: the nft program is needed with its absolute path")
	}
	if len(c.Ports) == 0 {
		return errors.New("packet filter: at least one port is needed")
	}
	for _, p := range c.Ports {
		if p < 1 || p > 65535 {
			return fmt.Errorf("packet filter: port %d is not 1 to 65535", p)
		}
	}
	return nil
}

// filterPatience bounds one run of nft. An element of the set lives so much shorter than
// the right to write: the run may have taken that long.
const filterPatience = time.Second

// filterLook is how soon a filter that is being put up is asked for again: an agent waits.
const filterLook = 10 * time.Millisecond

// filterUnsure is how long a helper puts its filter up again and again: an nft of the one that
// handed over to it may be on its way until then, and would open or shorten it.
const filterUnsure = 2*filterPatience + helperLook

// filter lets clients in through a set whose elements the kernel lets expire: each
// renewal puts them in again for what is left of the rights to write. If every process
// of the host is stopped or dead they expire all the same, established connections
// included. While nothing is armed everybody is let in: there is only what is read-only.
type filter struct {
	config FilterConfig
	logger *slog.Logger
	run    func(text string) error
	unsure time.Duration // filterUnsure

	setting sync.WaitGroup
	mu      sync.Mutex
	running bool
	have    passage
	since   time.Duration // when setting have began
	sure    time.Duration // when nobody else sets it any more; 0 before the first Guard
	err     error
}

// passage is what the filter is to do: let in until an instant, or without end.
type passage struct {
	known, armed bool
	until        time.Duration
}

func newFilter(config FilterConfig, logger *slog.Logger) *filter {
	f := &filter{config: config, logger: logger, unsure: filterUnsure}
	f.run = f.nft
	return f
}

// Guard implements Backstop.
func (f *filter) Guard(_, _, last time.Duration, armed bool) (time.Duration, error) {
	want := passage{known: true, armed: armed}
	if armed {
		want.until = last
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sure == 0 {
		f.sure = BootTime() + f.unsure
	}
	if !f.running && f.have == want && f.err == nil && f.since >= f.sure {
		return 0, nil
	}
	if !f.running {
		f.running = true
		if !armed && f.have.armed {
			f.have = passage{} // from now on it may be open
		}
		f.setting.Go(func() { f.set(want) })
	}
	if f.err == nil && armed && !f.have.armed {
		return filterLook, fmt.Errorf("packet filter %w", errNotYet) // everybody is let in as yet
	}
	return helperLook, f.err
}

// Lead implements Backstop: the kernel needs none.
func (f *filter) Lead() time.Duration { return 0 }

// Leave implements Backstop. What is left in the set expires. What is under way is waited
// for: an nft that outlived its helper would have no time limit. Taking the filter away comes
// after that, and only if nobody has yet: it must not meet a successor's.
func (f *filter) Leave(clean bool) {
	f.setting.Wait()
	if !clean {
		return
	}
	f.mu.Lock()
	open := f.have.known && !f.have.armed && f.err == nil
	f.mu.Unlock()
	if open {
		return
	}
	if err := f.run(f.open()); err != nil {
		f.logger.Error("packet filter was not taken away", "err", err)
	}
}

func (f *filter) set(want passage) {
	text := f.open()
	if want.armed {
		left := want.until - BootTime()
		text = f.close(left-filterPatience, time.Now().Add(left))
	}
	began := BootTime()
	err := f.run(text)
	if took := BootTime() - began; want.armed && err == nil && took > filterPatience {
		// It slept on the way, and what it let in may be of a right that has ended.
		err = errors.Join(fmt.Errorf("nft took %s", took), f.run(f.close(0, time.Now())))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running, f.err = false, err
	if err == nil {
		f.have, f.since = want, began
	}
}

func (f *filter) ports() string {
	ports := make([]string, len(f.config.Ports))
	for i, p := range f.config.Ports {
		ports[i] = strconv.Itoa(p)
	}
	return strings.Join(ports, ", ")
}

// table is of this agent: several on one machine have ports of their own.
func (f *filter) table() string { return "tarn_" + strconv.Itoa(f.config.Ports[0]) }

func (f *filter) open() string {
	return fmt.Sprintf("add table inet %s\ndelete table inet %[1]s\n", f.table())
}

// close drops what comes for the ports, but for the next left. Everything is one
// transaction. An element that is there does not take a new timeout, so that it is
// taken out first; to take it out it has to be there.
//
// The set's time stands still while the machine is suspended, and a process that was stopped
// on its way here sets what was right when it was. So nothing passes after end either, by the
// kernel's wall clock, in whole seconds. That clock decides nothing by itself: one that is
// ahead closes too early, until the next renewal, and one that is behind leaves it to the set.
func (f *filter) close(left time.Duration, end time.Time) string {
	t, ports := f.table(), f.ports()
	var b strings.Builder
	fmt.Fprintf(&b, "add table inet %s\n", t)
	fmt.Fprintf(&b, "add set inet %s lease { type inet_service; flags timeout; }\n", t)
	fmt.Fprintf(&b, "add chain inet %s input { type filter hook input priority -5; policy accept; }\n", t)
	fmt.Fprintf(&b, "flush chain inet %s input\n", t)
	fmt.Fprintf(&b, "add rule inet %s input meta l4proto { tcp, udp } th dport { %s } meta time >= %d drop\n", t, ports, end.Unix())
	fmt.Fprintf(&b, "add rule inet %s input meta l4proto { tcp, udp } th dport @lease accept\n", t)
	fmt.Fprintf(&b, "add rule inet %s input meta l4proto { tcp, udp } th dport { %s } drop\n", t, ports)
	fmt.Fprintf(&b, "add element inet %s lease { %s }\n", t, ports)
	fmt.Fprintf(&b, "delete element inet %s lease { %s }\n", t, ports)
	if left >= time.Millisecond {
		for _, p := range f.config.Ports {
			fmt.Fprintf(&b, "add element inet %s lease { %d timeout %dms }\n", t, p, left.Milliseconds())
		}
	}
	return b.String()
}

func (f *filter) nft(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), filterPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.config.Nft[0], append(append([]string{}, f.config.Nft[1:]...), "-f", "-")...)
	cmd.Stdin, cmd.Env, cmd.WaitDelay = strings.NewReader(text), []string{"LC_ALL=C"}, filterPatience
	out, err := cmd.CombinedOutput()
	if err != nil {
		said, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		return fmt.Errorf("packet filter: %w: %s", err, said)
	}
	return nil
}
