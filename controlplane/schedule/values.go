package schedule

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// parseBool takes what OpenStack takes for a boolean, with or without "<is>".
func parseBool(s string) (bool, error) {
	s = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(s), "<is>"))
	switch strings.ToLower(s) {
	case "true", "t", "yes", "y", "on", "1":
		return true, nil
	case "false", "f", "no", "n", "off", "0":
		return false, nil
	}
	return false, errors.New("must be a boolean: true or false, with or without \"<is>\" before it")
}

func parseReplicationType(s string) (tarnv1.ReplicationType, error) {
	switch s {
	case "writable":
		return tarnv1.ReplicationType_REPLICATION_TYPE_WRITABLE, nil
	case "readable":
		return tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, nil
	case "dr":
		return tarnv1.ReplicationType_REPLICATION_TYPE_DR, nil
	}
	return 0, errors.New("must be writable, readable or dr")
}

func replicationTypeName(t tarnv1.ReplicationType) string {
	return strings.ToLower(strings.TrimPrefix(t.String(), "REPLICATION_TYPE_"))
}

func parseSquash(s string) (tarnv1.Squash, error) {
	switch s {
	case "none":
		return tarnv1.Squash_SQUASH_NONE, nil
	case "root":
		return tarnv1.Squash_SQUASH_ROOT, nil
	case "all":
		return tarnv1.Squash_SQUASH_ALL, nil
	}
	return 0, errors.New("must be none, root or all")
}

func parseZones(s string) ([]string, error) {
	zones := splitList(s)
	if len(zones) == 0 {
		return nil, errors.New("must be a comma-separated list of zones")
	}
	return zones, nil
}

func parseRPO(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < MinRPO || d > MaxRPO {
		return 0, fmt.Errorf("must be a duration from %s to 24h, such as 10s or 5m", MinRPO)
	}
	return d, nil
}

func parseAutoFailover(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < MinRPO || d > MaxRPO {
		return 0, fmt.Errorf("must be a duration from %s to 24h, such as 30s: the writes that it may lose; leave the key out for no automatic failover", MinRPO)
	}
	return d, nil
}

// parseFsidOnLoss reports whether clients shall not be told that a failover lost data.
func parseFsidOnLoss(s string) (keep bool, err error) {
	switch s {
	case "break":
		return false, nil
	case "keep":
		return true, nil
	}
	return false, errors.New("must be break or keep")
}

var errRate = errors.New("must be bytes per second with an optional k, M or G (powers of 1024), such as 50M; 0 is unlimited")

func parseRate(s string) (int64, error) {
	shift := 0
	if n := len(s); n > 0 {
		shift = map[byte]int{'k': 10, 'K': 10, 'm': 20, 'M': 20, 'g': 30, 'G': 30}[s[n-1]]
	}
	if shift > 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, errRate
	}
	return n << shift, nil
}
