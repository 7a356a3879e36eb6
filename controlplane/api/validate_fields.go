package api

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The building blocks of the rules per request type. Each records at most one
// violation of the field it is given.

func (c *checker) required(field, v string) bool {
	if v == "" {
		c.fail(field, "is required")
	}
	return v != ""
}

// id checks a required UUID in its canonical spelling.
func (c *checker) id(field, v string) {
	if c.required(field, v) {
		c.optionalID(field, v)
	}
}

// isUUID wants the lower-case canonical form, and not the nil UUID.
func isUUID(v string) bool {
	parsed, err := uuid.Parse(v)
	return err == nil && parsed.String() == v && parsed != uuid.Nil
}

func (c *checker) optionalID(field, v string) {
	if v == "" {
		return
	}
	if !isUUID(v) {
		c.fail(field, "is not a UUID in lower-case canonical form")
	}
}

// name checks a required name; surrounding blanks make records that nobody finds again.
func (c *checker) name(field, v string) {
	if c.required(field, v) && strings.TrimSpace(v) != v {
		c.fail(field, "begins or ends with blanks")
	}
}

// optionalName checks a name that may be absent.
func (c *checker) optionalName(field, v string) {
	if v != "" {
		c.name(field, v)
	}
}

func (c *checker) sizeGiB(field string, v int64) {
	if v < 1 || v > maxSizeGiB {
		c.fail(field, "is %d GiB, 1 to %d are allowed", v, maxSizeGiB)
	}
}

func (c *checker) page(limit int32, token string) {
	if limit < 0 || limit > maxPage {
		c.fail("limit", "is %d, 0 to %d are allowed", limit, maxPage)
	}
	if token == "" {
		return
	}
	if _, err := parseCursor(token); err != nil {
		c.fail("page_token", "is not a token of an earlier answer")
	}
}

func (c *checker) metadata(m map[string]string) {
	for k, v := range m {
		if v == "" {
			c.fail("metadata", "key %q has an empty value", k)
		}
	}
}

func (c *checker) keys(keys []string) {
	if len(keys) == 0 || len(keys) > maxPairs {
		c.fail("keys", "names %d keys, 1 to %d are allowed", len(keys), maxPairs)
	}
	if slices.Contains(keys, "") {
		c.fail("keys", "contains an empty key")
	}
}

// span checks a duration that may be absent.
func (c *checker) span(field string, d *durationpb.Duration, shortest, longest time.Duration) {
	if d == nil {
		return
	}
	if v := d.AsDuration(); v < shortest || v > longest {
		c.fail(field, "is %s, %s to %s are allowed", v, shortest, longest)
	}
}

func (c *checker) address(field, v string) {
	if !c.required(field, v) {
		return
	}
	if _, err := netip.ParseAddrPort(v); err == nil {
		return
	}
	host, port, found := strings.Cut(v, ":")
	if !found || host == "" || port == "" || strings.ContainsAny(v, " /@[]") {
		c.fail(field, "is not host:port")
	}
}

// canonicalClient returns access_to in the one spelling that is stored and
// exported: an address, or a prefix without host bits. Host names and patterns
// are refused; everybody must be written out as a prefix.
func canonicalClient(v string) (string, bool) {
	if addr, err := netip.ParseAddr(v); err == nil {
		return addr.Unmap().String(), plainAddr(addr)
	}
	prefix, err := netip.ParsePrefix(v)
	if err != nil || !plainPrefix(prefix) || prefix.Masked() != prefix {
		return "", false
	}
	if prefix.IsSingleIP() {
		return prefix.Addr().String(), plainAddr(prefix.Addr())
	}
	return prefix.String(), true
}

func plainAddr(a netip.Addr) bool {
	return a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast()
}

// plainPrefix refuses IPv4-mapped prefixes: exporters disagree about what they mean.
func plainPrefix(p netip.Prefix) bool {
	return !p.Addr().Is4In6() && !p.Addr().IsMulticast()
}
