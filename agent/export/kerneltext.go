package export

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// kernelEntry is one client of one mountpoint, in the words of exports(5).
type kernelEntry struct {
	// client is an address, or a prefix with its length: the kernel takes a single
	// host before any network, whatever their order.
	client  string
	options string
	// want must be among the options in force, deny not.
	want, deny []string
}

func (e kernelEntry) inForce(options []string) bool {
	for _, w := range e.want {
		if !slices.Contains(options, w) {
			return false
		}
	}
	return !slices.ContainsFunc(options, func(o string) bool { return slices.Contains(e.deny, o) })
}

// maxKernelEntries bounds what one rule set may become when its networks overlap.
const maxKernelEntries = 4096

var errOverlap = errors.New("access rules overlap in too many ways for the kernel's server: make them fewer or wider")

// kernelEntries are the clients of an export. They do not depend on their order,
// which exportfs does not keep: networks that overlap with another level are cut
// up around each other.
func kernelEntries(export Export, anyPort bool) ([]kernelEntry, error) {
	clients, err := disjoint(export.Clients)
	if err != nil {
		return nil, err
	}
	entries := make([]kernelEntry, 0, len(clients))
	for _, c := range clients {
		e := kernelEntry{client: clientName(c.Prefix)}
		e.want = []string{"fsid=" + export.FSID, "sync", "no_subtree_check", "mountpoint"}
		choose := func(yes bool, one, other string) {
			if !yes {
				one, other = other, one
			}
			e.want, e.deny = append(e.want, one), append(e.deny, other)
		}
		choose(c.ReadOnly, "ro", "rw")
		choose(anyPort, "insecure", "secure")
		choose(export.Squash == SquashNone, "no_root_squash", "root_squash")
		choose(export.Squash == SquashAll, "all_squash", "no_all_squash")
		e.options = strings.Join(append(slices.Clone(e.want), "sec=sys"), ",")
		entries = append(entries, e)
	}
	return entries, nil
}

func clientName(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// disjoint cuts each network around the more specific ones of another level. It
// expects the order of Clients, most specific first, and keeps it.
func disjoint(clients []Client) ([]Client, error) {
	var out []Client
	for i, c := range clients {
		parts := halves(c.Prefix)
		for _, inner := range clients[:i] {
			if inner.ReadOnly == c.ReadOnly || inner.Prefix.IsSingleIP() || !c.Prefix.Overlaps(inner.Prefix) {
				continue
			}
			var rest []netip.Prefix
			for _, p := range parts {
				rest = append(rest, without(p, inner.Prefix)...)
			}
			if parts = rest; len(parts) > maxKernelEntries {
				return nil, errOverlap
			}
		}
		for _, p := range parts {
			out = append(out, Client{Prefix: p, ReadOnly: c.ReadOnly})
		}
		if len(out) > maxKernelEntries {
			return nil, errOverlap
		}
	}
	return out, nil
}

// without returns the prefixes that cover p and not hole.
func without(p, hole netip.Prefix) []netip.Prefix {
	switch {
	case !p.Overlaps(hole):
		return []netip.Prefix{p}
	case hole.Bits() <= p.Bits():
		return nil
	}
	var rest []netip.Prefix
	for bits := p.Bits() + 1; bits <= hole.Bits(); bits++ {
		rest = append(rest, netip.PrefixFrom(flip(hole.Addr(), bits-1), bits).Masked())
	}
	return rest
}

// flip returns a with one bit inverted, counted from the most significant.
func flip(a netip.Addr, bit int) netip.Addr {
	raw := a.AsSlice()
	raw[bit/8] ^= 0x80 >> (bit % 8)
	out, _ := netip.AddrFromSlice(raw) // as long as a was
	return out
}

// kernelText is the export's own file, in the format of exports(5).
func kernelText(mountpoint string, entries []kernelEntry) []byte {
	var b strings.Builder
	b.WriteString("# Written by the tarn agent, which owns this file: changes are lost.\n")
	if len(entries) > 0 {
		b.WriteString(mountpoint)
		for _, e := range entries {
			b.WriteString(" \\\n\t" + e.client + "(" + e.options + ")")
		}
		b.WriteString("\n")
	}
	return []byte(b.String())
}

// exportArgument is client:path, an IPv6 address in brackets.
func exportArgument(client, mountpoint string) string {
	if strings.Contains(client, ":") {
		addr, bits, cut := strings.Cut(client, "/")
		client = "[" + addr + "]"
		if cut {
			client += "/" + bits
		}
	}
	return client + ":" + mountpoint
}

// etabLine is one export in force.
type etabLine struct {
	path, client string
	options      []string
}

// etab is the table of exportfs, read once.
type etab []etabLine

// at gives the options of mountpoint by client.
func (t etab) at(mountpoint string) map[string][]string {
	have := map[string][]string{}
	for _, line := range t {
		if line.path == mountpoint {
			have[line.client] = line.options
		}
	}
	return have
}

// crossed tells of an export of a directory above that reaches mountpoint.
func (t etab) crossed(mountpoint string) error {
	for _, line := range t {
		above := strings.TrimSuffix(line.path, "/")
		if len(above) < len(mountpoint) && mountpoint[len(above)] == '/' && mountpoint[:len(above)] == above && slices.Contains(line.options, "crossmnt") {
			return fmt.Errorf("clients of %s reach %s through its export with crossmnt: export %s without it", line.path, mountpoint, line.path)
		}
	}
	return nil
}

// of lists the clients of mountpoint as arguments of exportfs.
func (t etab) of(mountpoint string) []string {
	var clients []string
	for client := range t.at(mountpoint) {
		clients = append(clients, exportArgument(client, mountpoint))
	}
	return clients
}

var errEtab = errors.New("not a line of exportfs")

// parseEtab reads the table that exportfs keeps: path, a tab, client(options).
func parseEtab(data []byte) (etab, error) {
	var all etab
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			continue
		}
		path, rest, ok := strings.Cut(line, "\t")
		client, options, open := strings.Cut(rest, "(")
		options, closed := strings.CutSuffix(options, ")")
		if !ok || !open || !closed {
			return nil, fmt.Errorf("%w: %q", errEtab, line)
		}
		all = append(all, etabLine{path: unescape(path), client: unescape(client), options: strings.Split(options, ",")})
	}
	return all, nil
}

// unescape replaces \ooo, which exportfs writes for what would end a word.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '7' })
}

// checkFSID requires the canonical form of a UUID: servers compare it as text.
func checkFSID(fsid string) error {
	id, err := uuid.Parse(fsid)
	if err != nil || id.String() != fsid {
		return fmt.Errorf("fsid %q is not a UUID in lower case", fsid)
	}
	return nil
}
