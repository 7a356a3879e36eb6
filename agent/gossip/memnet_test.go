package gossip

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memNet is a network in memory that loses what a full or cut off host is sent,
// as UDP does, so that failures can be played in virtual time.
type memNet struct {
	mu    sync.Mutex
	hosts map[string]*memHost
	cut   map[string]bool
	apart map[string]bool // the smaller part of a network in two
}

func newMemNet() *memNet { return &memNet{hosts: map[string]*memHost{}, cut: map[string]bool{}} }

// setCut pulls a host's cable, or plugs it in again.
func (n *memNet) setCut(addr string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[addr] = cut
}

// split lets the named hosts reach only each other, and the rest likewise.
func (n *memNet) split(addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apart = map[string]bool{}
	for _, addr := range addrs {
		n.apart[addr] = true
	}
}

// reach returns the host at to, unless it or from is cut off or down.
func (n *memNet) reach(from, to string) *memHost {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[from] || n.cut[to] || n.apart[from] != n.apart[to] {
		return nil
	}
	return n.hosts[to]
}

// memHost implements memberlist.Transport.
type memHost struct {
	net     *memNet
	addr    *net.UDPAddr
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (n *memNet) host(addr string) *memHost {
	udp, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		panic(err)
	}
	h := &memHost{net: n, addr: udp, packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn, 16)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = h
	return h
}

func (h *memHost) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return h.addr.IP, h.addr.Port, nil
}

func (h *memHost) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	if to := h.net.reach(h.addr.String(), addr); to != nil {
		select {
		case to.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: h.addr, Timestamp: now}:
		default:
		}
	}
	return now, nil
}

func (h *memHost) PacketCh() <-chan *memberlist.Packet { return h.packets }

func (h *memHost) DialTimeout(addr string, _ time.Duration) (net.Conn, error) {
	to := h.net.reach(h.addr.String(), addr)
	if to == nil {
		return nil, errors.New("no route to " + addr)
	}
	ours, theirs := net.Pipe()
	select {
	case to.streams <- memConn{theirs, h.addr}:
		return memConn{ours, to.addr}, nil
	default:
		return nil, errors.New(addr + " is busy")
	}
}

// memConn has addresses that memberlist can parse.
type memConn struct {
	net.Conn
	remote *net.UDPAddr
}

func (c memConn) RemoteAddr() net.Addr { return c.remote }

func (h *memHost) StreamCh() <-chan net.Conn { return h.streams }

func (h *memHost) Shutdown() error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	delete(h.net.hosts, h.addr.String())
	return nil
}

func memAddr(i int) string { return "10.0.0." + strconv.Itoa(i+1) + ":7000" }
