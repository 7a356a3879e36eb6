package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// enumText is an enum's value in Manila's spelling: lower case, without the
// prefix that protobuf's style puts before it.
func enumText(e protoreflect.Enum) string {
	value := e.Descriptor().Values().ByNumber(e.Number())
	if value == nil {
		return strconv.Itoa(int(e.Number()))
	}
	if e.Number() == 0 {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(string(value.Name()), enumPrefix(e)))
}

func enumPrefix(e protoreflect.Enum) string {
	zero := string(e.Descriptor().Values().ByNumber(0).Name())
	return strings.TrimSuffix(zero, "UNSPECIFIED")
}

// parseEnum is the inverse of enumText; "" is the unspecified value.
func parseEnum[E interface {
	~int32
	protoreflect.Enum
}](flag, text string) (E, error) {
	var zero E
	if text == "" {
		return zero, nil
	}
	values := zero.Descriptor().Values()
	var known []string
	for i := range values.Len() {
		v := values.Get(i)
		if v.Number() == 0 {
			continue
		}
		name := strings.ToLower(strings.TrimPrefix(string(v.Name()), enumPrefix(zero)))
		if name == strings.ToLower(text) {
			return E(v.Number()), nil
		}
		known = append(known, name)
	}
	return zero, usage("%s: %q is not one of %s", flag, text, strings.Join(known, ", "))
}

func stampText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// durationText is short enough for a column: 850ms, 4.2s, 3m12s.
func durationText(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return shortDuration(d.AsDuration())
}

func shortDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// bytesText uses binary units, as ZFS does.
func bytesText(n int64) string {
	if n < 0 {
		return "unknown"
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}

func guidText(guid uint64) string {
	if guid == 0 {
		return ""
	}
	return strconv.FormatUint(guid, 10)
}

func mapText(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, k+"="+m[k])
	}
	return strings.Join(lines, "\n")
}

func boolText(b bool) string { return strconv.FormatBool(b) }

// pairs reads key=value words.
func pairs(what string, words []string) (map[string]string, error) {
	out := make(map[string]string, len(words))
	for _, word := range words {
		k, v, ok := strings.Cut(word, "=")
		if !ok || k == "" {
			return nil, usage("%s: %q is not key=value", what, word)
		}
		if _, twice := out[k]; twice {
			return nil, usage("%s: key %q is given twice", what, k)
		}
		out[k] = v
	}
	return out, nil
}
