package fabric

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Link is how packets fare from one host to another. The zero value passes all at once.
type Link struct {
	Cut bool
	// CutUDP loses what is not TCP, as careless firewalls do.
	CutUDP bool
	// Loss is the share of packets that get lost, 0 to 1.
	Loss float64
	// Delay is added to every packet, and up to Jitter more: packets may overtake.
	Delay, Jitter time.Duration
	// BytesPerSecond of a slow line with a queue of a quarter second; 0 is unlimited.
	BytesPerSecond int
}

// Counts are of packets since the fabric began.
type Counts struct {
	Passed, Cut, Lost, Delayed, Congested int64
}

type link struct {
	Link
	mu   sync.Mutex
	free time.Time // when the line has sent what it was given
}

type host struct {
	device
	index int
}

// Fabric carries packets between its hosts while Run runs. Safe for concurrent use.
type Fabric struct {
	names []string
	hosts map[string]*host
	byIP  map[[4]byte]*host
	// links by sender and receiver.
	links  [][]atomic.Pointer[link]
	counts struct{ passed, cut, lost, delayed, congested atomic.Int64 }
}

// Home is the name of the host that is the caller itself.
const Home = "home"

// New makes hosts with the given addresses, which share their first three numbers.
// The one called Home is made in the caller's own network namespace, which should
// be one that is used for nothing else. Close ends it.
func New(addresses map[string]netip.Addr) (*Fabric, error) {
	f := &Fabric{hosts: map[string]*host{}, byIP: map[[4]byte]*host{}}
	for name, address := range addresses {
		d, err := newDevice(address, name == Home)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("host %s: %w", name, err), f.Close())
		}
		h := &host{device: d, index: len(f.names)}
		f.names = append(f.names, name)
		f.hosts[name], f.byIP[address.As4()] = h, h
	}
	f.links = make([][]atomic.Pointer[link], len(f.names))
	for i := range f.links {
		f.links[i] = make([]atomic.Pointer[link], len(f.names))
	}
	f.Heal()
	return f, nil
}

// Close ends the devices. Processes in the namespaces are cut off for good.
func (f *Fabric) Close() error {
	var errs []error
	for _, h := range f.hosts {
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// Enter moves the calling thread into a host. The thread must be the caller's alone.
func (f *Fabric) Enter(name string) error {
	h, ok := f.hosts[name]
	if !ok {
		return fmt.Errorf("no host %q in this network", name)
	}
	if err := unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// Set changes the link from one host to another, for packets sent from now on.
func (f *Fabric) Set(from, to string, l Link) {
	f.links[f.hosts[from].index][f.hosts[to].index].Store(&link{Link: l})
}

// Get is how the link is set.
func (f *Fabric) Get(from, to string) Link {
	return f.links[f.hosts[from].index][f.hosts[to].index].Load().Link
}

// Heal sets every link to pass all.
func (f *Fabric) Heal() {
	for i := range f.links {
		for j := range f.links[i] {
			f.links[i][j].Store(&link{})
		}
	}
}

// Counts are what became of packets so far.
func (f *Fabric) Counts() Counts {
	c := &f.counts
	return Counts{Passed: c.passed.Load(), Cut: c.cut.Load(), Lost: c.lost.Load(), Delayed: c.delayed.Load(), Congested: c.congested.Load()}
}

// Run carries packets until ctx ends.
func (f *Fabric) Run(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make([]error, len(f.names))
	for i, name := range f.names {
		h := f.hosts[name]
		all.Go(func() {
			if err := f.carry(h); err != nil && ctx.Err() == nil {
				errs[i] = fmt.Errorf("carry packets of %s: %w", name, err)
			}
		})
	}
	<-ctx.Done()
	for _, h := range f.hosts {
		// Ends the read that carry waits in.
		errs = append(errs, h.packets.SetReadDeadline(time.Now()))
	}
	all.Wait()
	return errors.Join(errs...)
}

// carry reads what one host sends.
func (f *Fabric) carry(from *host) error {
	buffer := make([]byte, mtu+100)
	for {
		n, err := from.packets.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if to := f.receiver(buffer[:n]); to != nil && to != from {
			f.pass(from, to, buffer[:n])
		}
	}
}

// What is looked at of an IPv4 packet.
const (
	headerLength = 20
	destination  = 16
	protocol     = 9
	tcp          = 6
)

// receiver is nil for what is no IPv4 packet to one of the hosts.
func (f *Fabric) receiver(packet []byte) *host {
	if len(packet) < headerLength || packet[0]>>4 != 4 || int(binary.BigEndian.Uint16(packet[2:])) != len(packet) {
		return nil
	}
	return f.byIP[[4]byte(packet[destination:])]
}

func (f *Fabric) pass(from, to *host, packet []byte) {
	l := f.links[from.index][to.index].Load()
	switch {
	case l.Cut, l.CutUDP && packet[protocol] != tcp:
		f.counts.cut.Add(1)
		return
	case l.Loss > 0 && rand.Float64() < l.Loss:
		f.counts.lost.Add(1)
		return
	}
	wait := l.Delay
	if l.Jitter > 0 {
		wait += rand.N(l.Jitter)
	}
	if l.BytesPerSecond > 0 {
		queued, full := l.queue(len(packet))
		if full {
			f.counts.congested.Add(1)
			return
		}
		wait += queued
	}
	if wait == 0 {
		f.deliver(to, packet)
		return
	}
	f.counts.delayed.Add(1)
	late := append([]byte(nil), packet...)
	time.AfterFunc(wait, func() { f.deliver(to, late) })
}

// queue books the line for a packet, and tells how long it will take.
func (l *link) queue(bytes int) (wait time.Duration, full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	if l.free.Sub(now) > time.Second/4 {
		return 0, true
	}
	l.free = l.free.Add(time.Duration(bytes) * time.Second / time.Duration(l.BytesPerSecond))
	return l.free.Sub(now), false
}

// deliver loses what the receiver cannot take, as a network would.
func (f *Fabric) deliver(to *host, packet []byte) {
	if _, err := to.packets.Write(packet); err == nil {
		f.counts.passed.Add(1)
	}
}
