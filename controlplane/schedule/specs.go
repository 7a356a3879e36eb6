package schedule

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

const (
	specSnapshots      = "snapshot_support"
	specFromSnapshot   = "create_share_from_snapshot_support"
	specRevert         = "revert_to_snapshot_support"
	specMountSnapshot  = "mount_snapshot_support"
	specInheritAccess  = "snapshot_inherit_share_access_support"
	specMountPointName = "mount_point_name_support"
	specMinSize        = "provisioning:min_share_size"
	specMaxSize        = "provisioning:max_share_size"
	specMaxExtend      = "provisioning:max_share_extend_size"
	specRPO            = "tarn:rpo"
	specRateLimit      = "tarn:rate_limit"
	specKeep           = "tarn:keep"
	specSquash         = "tarn:squash"
	specAutoFailover   = "tarn:auto_failover"
	specFsidOnLoss     = "tarn:fsid_on_loss"
	specEncryption     = EncryptionKey
	tarnScope          = "tarn:"
)

// EncryptionKey is the extra spec of encrypted shares, and the capability of pools
// that can keep and replicate them.
const EncryptionKey = "tarn:encryption"

// DefaultRPO is the lag that a type without tarn:rpo promises.
const DefaultRPO = time.Minute

// Limits of tarn:rpo.
const (
	MinRPO = time.Second
	MaxRPO = 24 * time.Hour
)

// maxSpecBytes bounds keys and values, as Manila does.
const maxSpecBytes = 255

// Specs is what a share type's extra specs mean. docs/share-types.md describes each.
type Specs struct {
	DriverHandlesShareServers         bool
	ReplicationType                   tarnv1.ReplicationType
	SnapshotSupport                   bool
	CreateShareFromSnapshotSupport    bool
	RevertToSnapshotSupport           bool
	MountSnapshotSupport              bool
	SnapshotInheritShareAccessSupport bool
	MountPointNameSupport             bool
	AvailabilityZones                 []string
	MinShareSizeGiB                   int64 // 0: no limit
	MaxShareSizeGiB                   int64 // 0: no limit
	MaxShareExtendSizeGiB             int64 // 0: no limit
	RPO                               time.Duration
	RateLimitBytesPerSecond           int64 // 0: unlimited
	Keep                              KeepPolicy
	Squash                            tarnv1.Squash // root when the type does not say
	Encryption                        bool          // at rest and, as raw streams, between hosts
	AutoFailover                      time.Duration // what an automatic failover may lose; 0: none happens
	KeepFsidOnLoss                    bool          // clients go on as if nothing was lost
}

// SpecError is the error of ParseSpecs.
type SpecError struct {
	Violations []*tarnv1.FieldViolation
}

// Error names the first violation and counts the others.
func (e *SpecError) Error() string {
	v := e.Violations[0]
	text := fmt.Sprintf("extra spec %s: %s", v.GetField(), v.GetRule())
	if n := len(e.Violations) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

// ValidateExtraSpecs returns every rule that a set of extra specs breaks, in the
// order of the keys; none when it is good. Fields are "extra_specs.<key>".
func ValidateExtraSpecs(specs map[string]string) []*tarnv1.FieldViolation {
	_, violations := parse(specs)
	return violations
}

// ParseSpecs reads extra specs. Its error is a *SpecError.
func ParseSpecs(specs map[string]string) (Specs, error) {
	out, violations := parse(specs)
	if len(violations) > 0 {
		return Specs{}, &SpecError{Violations: violations}
	}
	return out, nil
}

var keyPattern = regexp.MustCompile(`^[\w.\-:]{1,255}$`)

func parse(specs map[string]string) (Specs, []*tarnv1.FieldViolation) {
	out := Specs{RPO: DefaultRPO, Squash: tarnv1.Squash_SQUASH_ROOT}
	var bad []*tarnv1.FieldViolation
	violate := func(key, rule string) {
		bad = append(bad, &tarnv1.FieldViolation{Field: "extra_specs." + shorten(key), Rule: rule})
	}
	if _, ok := specs[specDHSS]; !ok {
		violate(specDHSS, "is required: true or false; tarn's storage hosts offer false")
	}
	readers := out.readers()
	for _, key := range sortedKeys(specs) {
		value := specs[key]
		read, known := readers[key]
		lower := strings.ToLower(key)
		_, meant := readers[lower]
		switch {
		case !keyPattern.MatchString(key):
			violate(key, "a key has 1 to 255 letters, digits, '_', '.', '-' or ':'")
		case len(value) == 0 || len(value) > maxSpecBytes:
			violate(key, "a value has 1 to 255 bytes")
		case known:
			if err := read(value); err != nil {
				violate(key, err.Error())
			}
		case meant:
			// Taken for a spec without a meaning it would do nothing, and nobody would know.
			violate(key, "is unknown; "+lower+" is meant")
		case strings.HasPrefix(lower, tarnScope):
			violate(key, "is unknown; the keys of tarn are "+strings.Join(tarnKeys(), ", "))
		}
	}
	if out.Encryption && out.CreateShareFromSnapshotSupport {
		violate(specEncryption, "excludes "+specFromSnapshot+": a clone cannot have a key of its own")
	}
	if out.AutoFailover > 0 && !mirrored(out.ReplicationType) {
		violate(specAutoFailover, "needs "+specReplicationType+" readable or dr: there is nothing else to fail over to")
	}
	if out.MaxShareSizeGiB > 0 && out.MinShareSizeGiB > out.MaxShareSizeGiB {
		violate(specMinSize, "is larger than "+specMaxSize)
	}
	return out, bad
}

// tarnKeys are the keys of tarn's own scope.
func tarnKeys() []string {
	return []string{specAutoFailover, specEncryption, specFsidOnLoss, specKeep, specRateLimit, specRPO, specSquash}
}

func mirrored(t tarnv1.ReplicationType) bool {
	return t == tarnv1.ReplicationType_REPLICATION_TYPE_READABLE || t == tarnv1.ReplicationType_REPLICATION_TYPE_DR
}

func shorten(key string) string {
	if len(key) > 64 {
		return strings.ToValidUTF8(key[:64], "") + "..."
	}
	return strings.ToValidUTF8(key, "?")
}

// readers maps each key with a meaning to what reads it into s.
func (s *Specs) readers() map[string]func(string) error {
	return map[string]func(string) error{
		specDHSS:            boolInto(&s.DriverHandlesShareServers),
		specReplicationType: func(v string) (err error) { s.ReplicationType, err = parseReplicationType(v); return err },
		specSnapshots:       boolInto(&s.SnapshotSupport),
		specFromSnapshot:    boolInto(&s.CreateShareFromSnapshotSupport),
		specRevert:          boolInto(&s.RevertToSnapshotSupport),
		specMountSnapshot:   boolInto(&s.MountSnapshotSupport),
		specInheritAccess:   boolInto(&s.SnapshotInheritShareAccessSupport),
		specMountPointName:  boolInto(&s.MountPointNameSupport),
		specZones:           func(v string) (err error) { s.AvailabilityZones, err = parseZones(v); return err },
		specMinSize:         sizeInto(&s.MinShareSizeGiB),
		specMaxSize:         sizeInto(&s.MaxShareSizeGiB),
		specMaxExtend:       sizeInto(&s.MaxShareExtendSizeGiB),
		specRPO:             func(v string) (err error) { s.RPO, err = parseRPO(v); return err },
		specRateLimit:       func(v string) (err error) { s.RateLimitBytesPerSecond, err = parseRate(v); return err },
		specKeep:            func(v string) (err error) { s.Keep, err = ParseKeep(v); return err },
		specEncryption:      boolInto(&s.Encryption),
		specSquash:          func(v string) (err error) { s.Squash, err = parseSquash(v); return err },
		specAutoFailover:    func(v string) (err error) { s.AutoFailover, err = parseAutoFailover(v); return err },
		specFsidOnLoss:      func(v string) (err error) { s.KeepFsidOnLoss, err = parseFsidOnLoss(v); return err },
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func boolInto(into *bool) func(string) error {
	return func(v string) (err error) { *into, err = parseBool(v); return err }
}

func sizeInto(into *int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 {
			return fmt.Errorf("must be a whole number of GiB, 1 or more")
		}
		*into = n
		return nil
	}
}

// RateLimit returns tarn:rate_limit in bytes per second; 0, unlimited, when it is
// absent or not valid (it was checked when the type was written).
func RateLimit(specs map[string]string) int64 {
	v, ok := specs[specRateLimit]
	if !ok {
		return 0
	}
	limit, err := parseRate(v)
	if err != nil {
		return 0
	}
	return limit
}

// Squash returns tarn:squash; root when it is absent or not valid (it was checked
// when the type was written).
func Squash(specs map[string]string) tarnv1.Squash {
	squash, err := parseSquash(specs[specSquash])
	if err != nil {
		return tarnv1.Squash_SQUASH_ROOT
	}
	return squash
}

// AutoFailover returns tarn:auto_failover: how much a failover may lose that the
// leader begins by itself; 0, never, when it is absent or not valid.
func AutoFailover(specs map[string]string) time.Duration {
	v, ok := specs[specAutoFailover]
	if !ok {
		return 0
	}
	age, err := parseAutoFailover(v)
	if err != nil {
		return 0
	}
	return age
}

// Encrypted tells whether a type's shares are encrypted.
func Encrypted(specs map[string]string) bool { return truth(specs[specEncryption]) }
