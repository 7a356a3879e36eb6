package schedule

import (
	"sort"
	"strconv"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// Keys with a meaning of their own, see docs/share-types.md.
const (
	specDHSS            = "driver_handles_share_servers"
	specReplicationType = "replication_type"
	specZones           = "availability_zones"
	specBackendName     = "share_backend_name"
	specPoolName        = "pool_name"
	specDomain          = "replication_domain"
	specProtocol        = "storage_protocol"
	specQoSType         = "default_qos_type"
	capabilityScope     = "capabilities:"
)

// assumedCapability is what a pool that says nothing is taken to offer: the
// base features of every tarn agent.
func assumedCapability(key string) (string, bool) {
	switch key {
	case specDHSS, specRevert, specMountSnapshot, specInheritAccess, specMountPointName:
		return "false", true
	case specSnapshots, specFromSnapshot:
		return "true", true
	}
	return "", false
}

// capabilitySet is what pools with equal capabilities share.
type capabilitySet struct {
	values map[string]string
	types  []tarnv1.ReplicationType
	// fingerprint is equal for equal sets and for no others.
	fingerprint string
}

func newCapabilitySet(h *tarnv1.Host, p *tarnv1.Pool) *capabilitySet {
	values := make(map[string]string, len(h.GetCapabilities())+len(p.GetCapabilities())+4)
	for k, v := range h.GetCapabilities() {
		values[strings.ToLower(k)] = v
	}
	for k, v := range p.GetCapabilities() {
		values[strings.ToLower(k)] = v
	}
	values[specBackendName] = h.GetBackend()
	values["thin_provisioning"] = strconv.FormatBool(p.GetThinProvisioning())
	values[specProtocol] = "NFS"
	if p.GetStorageProtocol() != "" {
		values[specProtocol] = p.GetStorageProtocol()
	}
	set := &capabilitySet{values: values, types: p.GetReplicationTypes()}
	set.fingerprint = set.print()
	return set
}

func (c *capabilitySet) print() string {
	keys := make([]string, 0, len(c.values))
	for k := range c.values {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(strconv.Quote(k))
		b.WriteString(strconv.Quote(c.values[k]))
	}
	for _, t := range c.types {
		b.WriteString(t.String())
	}
	return b.String()
}

func (c *capabilitySet) value(key string) (string, bool) {
	if v, ok := c.values[key]; ok {
		return v, true
	}
	return assumedCapability(key)
}

func (c *capabilitySet) replicates(t tarnv1.ReplicationType) bool {
	for _, have := range c.types {
		if have == t {
			return true
		}
	}
	return false
}

// matchedKey returns the capability that a spec is compared with, or "" for a
// spec that placement ignores. Keys of other scopes belong to other parts.
func matchedKey(key string) string {
	key = strings.ToLower(key)
	if rest, ok := strings.CutPrefix(key, capabilityScope); ok {
		return rest
	}
	switch {
	case strings.Contains(key, ":"):
		return ""
	case key == specZones, key == specReplicationType, key == specQoSType:
		return ""
	}
	return key
}

// matches compares one capability with a spec in Manila's operator language
// (manila semantics 5.2). A comma list matches when one of its elements does.
func matches(have, want string) bool {
	if matchesOne(have, want) {
		return true
	}
	if !strings.Contains(have, ",") {
		return false
	}
	for _, element := range splitList(have) {
		if matchesOne(element, want) {
			return true
		}
	}
	return false
}

func matchesOne(have, want string) bool {
	op, operand, _ := strings.Cut(strings.TrimSpace(want), " ")
	operand = strings.TrimSpace(operand)
	switch op {
	case "<is>":
		return truth(have) == truth(operand)
	case "<in>":
		return strings.Contains(have, operand)
	case "<or>":
		return matchesAny(have, operand)
	case "=", ">=", "<=", "==", "!=":
		return matchesNumber(have, op, operand)
	case "s==", "s!=", "s<", "s<=", "s>", "s>=":
		return compare(strings.Compare(have, operand), op[1:])
	}
	return matchesPlain(have, want)
}

func matchesAny(have, operands string) bool {
	for operand := range strings.SplitSeq(operands, "<or>") {
		if have == strings.TrimSpace(operand) {
			return true
		}
	}
	return false
}

func matchesNumber(have, op, operand string) bool {
	a, errA := strconv.ParseFloat(strings.TrimSpace(have), 64)
	b, errB := strconv.ParseFloat(operand, 64)
	if errA != nil || errB != nil {
		return false
	}
	sign := 0
	if a < b {
		sign = -1
	} else if a > b {
		sign = 1
	}
	if op == "=" {
		op = ">=" // Manila's "=" means at least.
	}
	return compare(sign, op)
}

func compare(sign int, op string) bool {
	switch op {
	case "==":
		return sign == 0
	case "!=":
		return sign != 0
	case "<":
		return sign < 0
	case "<=":
		return sign <= 0
	case ">":
		return sign > 0
	case ">=":
		return sign >= 0
	}
	return false
}

func matchesPlain(have, want string) bool {
	have, want = strings.TrimSpace(have), strings.TrimSpace(want)
	if strings.EqualFold(have, want) {
		return true
	}
	a, errA := parseBool(have)
	b, errB := parseBool(want)
	return errA == nil && errB == nil && a == b
}

func truth(s string) bool {
	v, err := parseBool(s)
	return err == nil && v
}
