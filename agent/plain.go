package agent

import (
	"fmt"
	"net/netip"
	"time"

	"tarn/agent/stream"
)

// Network is an IP prefix in its canonical form, such as 10.1.0.0/16.
type Network netip.Prefix

// UnmarshalText reads a prefix. Host bits have to be zero: who writes 10.1.2.3/16
// may have meant something else.
func (n *Network) UnmarshalText(text []byte) error {
	p, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("network %q: want a prefix such as 10.1.0.0/16", text)
	}
	if p != p.Masked() {
		return fmt.Errorf("network %q has host bits: write %s", text, p.Masked())
	}
	*n = Network(p)
	return nil
}

func (s StreamConfig) validate(v *validator) {
	v.check(s.StallTimeout >= time.Second, "stream.stall_timeout is %s, 1s or more is allowed", s.StallTimeout)
	v.check(s.ReceiveTimeout >= time.Minute, "stream.receive_timeout is %s, 1m or more is allowed", s.ReceiveTimeout)
	v.check(s.RateLimit >= 0, "stream.rate_limit must not be negative")
	v.check(s.MaxStreams >= 1 && s.MaxStreams <= 4096, "stream.max_streams is %d, 1 to 4096 are allowed", s.MaxStreams)
	if s.PlainListen == "" {
		v.check(s.PlainAdvertise == "", "stream.plain_advertise needs stream.plain_listen")
		return
	}
	v.listens("stream.plain_listen", s.PlainListen)
	at, err := netip.ParseAddrPort(s.PlainAdvertise)
	v.check(err == nil && !at.Addr().IsUnspecified(), "stream.plain_advertise is %q, want IP:port that others can reach", s.PlainAdvertise)
	v.check(len(s.PlainNetworks) > 0, "stream.plain_listen needs stream.plain_networks: the networks that are trusted")
}

func (s StreamConfig) networks() []netip.Prefix {
	list := make([]netip.Prefix, len(s.PlainNetworks))
	for i, n := range s.PlainNetworks {
		list[i] = netip.Prefix(n)
	}
	return list
}

// buildDoor prepares the port for streams without TLS, if there is one.
func (a *Agent) buildDoor() (err error) {
	s := a.cfg.Stream
	if s.PlainListen == "" {
		return nil
	}
	a.log.Warn("streams to trusted networks leave without TLS", "networks", s.networks())
	a.door, err = stream.NewDoor(stream.PlainConfig{
		Listen: s.PlainListen, Advertise: s.PlainAdvertise, Networks: s.networks(), Logger: a.log,
	})
	return err
}
