package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

// Profile chooses memberlist's timing.
type Profile string

// The profiles.
const (
	ProfileLocal Profile = "local" // all members on one machine
	ProfileLAN   Profile = "lan"   // one site; the default
	ProfileWAN   Profile = "wan"   // several regions, or tunnels with a small MTU
)

// keySize makes the ring's encryption AES-256.
const keySize = 32

// Config is all that a Ring needs. Bind, Key, Label, Meta and Logger are required.
type Config struct {
	Bind      string   // IP:port to listen on, UDP and TCP; port 0 picks one
	Advertise string   // IP:port that others use; empty: as bound
	Key       []byte   // 32 bytes, the same in the whole cluster
	OtherKeys [][]byte // accepted too, while keys are rotated; see Keyring
	Label     string   // cluster id: members of other clusters are not heard
	Profile   Profile
	Meta      Meta // Meta.HostID is the member's name, and never changes
	// Peers returns the addresses (host:port) of members that should be in the
	// ring. It is asked at start, then every Rejoin, so that halves of a ring find
	// each other after a long partition (M5). It must not block. May be nil.
	Peers func() []string
	// Rejoin is the pause between rounds over Peers. Default 30 s. While nobody
	// else is in the ring it is one second.
	Rejoin time.Duration
	// Accept refuses a member by returning an error: an unregistered host, or one
	// at an address that is not its own (M4). It runs under memberlist's locks and
	// must neither block nor call the Ring. May be nil.
	Accept func(Member) error
	// Refused is told of each announcement that is kept out, with Accept's error or
	// ErrMeta, under the same conditions. May be nil.
	Refused func(Member, error)
	// Notify gets what changed, at most one event per member and call, newest
	// state only, on a goroutine of Run. It may call the Ring. May be nil.
	Notify func([]Event)
	// Admit is asked about each incoming TCP connection: it returns the one to use, which
	// knows its end, or false to close it unread. Nil lets all in.
	Admit func(net.Conn) (net.Conn, bool)
	// Allowed limits who may connect. Empty: everyone who has the key.
	Allowed []netip.Prefix
	// Transport replaces the network in tests. Nil: UDP and TCP.
	Transport memberlist.Transport
	Logger    *slog.Logger
}

func (c Config) check() error {
	switch {
	case len(c.Key) != keySize:
		return fmt.Errorf("gossip config: key of %d bytes, want %d", len(c.Key), keySize)
	case c.Label == "" || len(c.Label) > memberlist.LabelMaxSize:
		return fmt.Errorf("gossip config: label of %d bytes, want 1 to %d", len(c.Label), memberlist.LabelMaxSize)
	case c.Logger == nil:
		return errors.New("gossip config: Logger is required")
	case c.Rejoin < 0:
		return fmt.Errorf("gossip config: negative rejoin interval %s", c.Rejoin)
	}
	if _, err := c.memberlist(); err != nil {
		return err
	}
	_, err := c.Meta.encode()
	return err
}

// memberlist translates c, without delegates.
func (c Config) memberlist() (*memberlist.Config, error) {
	mc, err := c.Profile.memberlist()
	if err != nil {
		return nil, err
	}
	if mc.BindAddr, mc.BindPort, err = splitAddr(c.Bind); err != nil {
		return nil, fmt.Errorf("gossip config: bind: %w", err)
	}
	mc.AdvertisePort = mc.BindPort
	if c.Advertise != "" {
		if mc.AdvertiseAddr, mc.AdvertisePort, err = splitAddr(c.Advertise); err != nil {
			return nil, fmt.Errorf("gossip config: advertise: %w", err)
		}
	}
	mc.Name = c.Meta.HostID
	mc.Label = c.Label
	mc.Transport = c.Transport
	// A host that comes back under another address is itself again after 30 s;
	// by default never (M3).
	mc.DeadNodeReclaimTime = 30 * time.Second
	mc.EnableCompression = false // saves nothing here and was a way in (M12)
	mc.TCPTimeout = min(mc.TCPTimeout, 5*time.Second)
	for _, p := range c.Allowed {
		mc.CIDRsAllowed = append(mc.CIDRsAllowed, net.IPNet{
			IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return mc, nil
}

func (p Profile) memberlist() (*memberlist.Config, error) {
	switch p {
	case ProfileLocal:
		return memberlist.DefaultLocalConfig(), nil
	case ProfileLAN, "":
		mc := memberlist.DefaultLANConfig()
		mc.SuspicionMult = 5 // a pause must not make the whole ring suspect (M11)
		return mc, nil
	case ProfileWAN:
		mc := memberlist.DefaultWANConfig()
		mc.UDPBufferSize = 1200 // fits tunnels, encryption included (M8)
		return mc, nil
	}
	return nil, fmt.Errorf("gossip config: unknown profile %q, want local, lan or wan", p)
}

func splitAddr(addr string) (string, int, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return "", 0, fmt.Errorf("%q is not an IP address", host)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q: %w", portText, err)
	}
	return host, int(port), nil
}
