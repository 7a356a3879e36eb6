package export

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	tarnv1 "tarn/proto/tarn/v1"
)

// Client is one access rule in the form that servers understand.
type Client struct {
	// Prefix is masked: 10.0.0.0/8, never 10.1.2.3/8.
	Prefix   netip.Prefix `json:"prefix"`
	ReadOnly bool         `json:"read_only"`
}

// Clients translates rules. With readOnly every one is, whatever its level. A
// rule that is no address or prefix, or has no level, becomes an error of its
// own and lets the others pass. The result has one entry per prefix (of two rules
// for one prefix the wider access counts), the most specific first: of several
// prefixes that contain a client, the first one counts, with every server.
func Clients(rules []*tarnv1.ExportRule, readOnly bool) ([]Client, []*tarnv1.RuleError) {
	return clientsOf(rules, readOnly, anyPrefix)
}

// anyPrefix is for servers that can be told every prefix.
func anyPrefix(netip.Prefix) error { return nil }

// clientsOf is Clients for a server that refuses some prefixes.
func clientsOf(rules []*tarnv1.ExportRule, readOnly bool, accepts func(netip.Prefix) error) ([]Client, []*tarnv1.RuleError) {
	widest := map[netip.Prefix]bool{}
	var refused []*tarnv1.RuleError
	for _, rule := range rules {
		client, err := translate(rule, readOnly)
		if err == nil {
			err = accepts(client.Prefix)
		}
		if err != nil {
			refused = append(refused, &tarnv1.RuleError{AccessRuleId: rule.GetAccessRuleId(), Message: err.Error()})
			continue
		}
		before, seen := widest[client.Prefix]
		widest[client.Prefix] = client.ReadOnly && (before || !seen)
	}
	clients := make([]Client, 0, len(widest))
	for prefix, ro := range widest {
		clients = append(clients, Client{Prefix: prefix, ReadOnly: ro})
	}
	slices.SortFunc(clients, func(a, b Client) int {
		return cmp.Or(a.Prefix.Addr().BitLen()-b.Prefix.Addr().BitLen(),
			b.Prefix.Bits()-a.Prefix.Bits(), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	return clients, refused
}

// access finds what the rules say of one address; false when none contains it.
func access(clients []Client, addr netip.Addr) (client Client, ok bool) {
	addr = addr.Unmap().WithZone("")
	for _, c := range clients {
		if c.Prefix.Contains(addr) {
			return c, true
		}
	}
	return Client{}, false
}

// halves splits the prefixes of all addresses, which servers' own readers get
// wrong: exportfs shifts its mask by 32 bits, and Ganesha takes /0 for a path.
func halves(p netip.Prefix) []netip.Prefix {
	if p.Bits() > 0 {
		return []netip.Prefix{p}
	}
	low := netip.PrefixFrom(p.Addr(), 1)
	if p.Addr().Is4() {
		return []netip.Prefix{low, netip.PrefixFrom(netip.AddrFrom4([4]byte{0x80}), 1)}
	}
	return []netip.Prefix{low, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x80}), 1)}
}

func translate(rule *tarnv1.ExportRule, readOnly bool) (Client, error) {
	prefix, err := ParsePrefix(rule.GetAccessTo())
	if err != nil {
		return Client{}, err
	}
	switch rule.GetAccessLevel() {
	case tarnv1.AccessLevel_ACCESS_LEVEL_RO:
		return Client{Prefix: prefix, ReadOnly: true}, nil
	case tarnv1.AccessLevel_ACCESS_LEVEL_RW:
		return Client{Prefix: prefix, ReadOnly: readOnly}, nil
	}
	return Client{}, fmt.Errorf("access level %q is neither rw nor ro", rule.GetAccessLevel())
}

// ParsePrefix reads an IPv4 or IPv6 address or prefix. An address is the prefix
// of itself alone; bits beyond the mask are an error, since the rule would not
// mean what it says. So are zones, which mean nothing to a server, and IPv4 in
// the clothes of IPv6.
func ParsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, addrErr := netip.ParseAddr(text)
		if addrErr != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is neither an IP address nor a prefix", text)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	switch {
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is IPv4 written as IPv6: write %s", text, prefix.Addr().Unmap())
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its mask: write %s", text, prefix.Masked())
	}
	return prefix, nil
}
