package schedule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tarnv1 "tarn/proto/tarn/v1"
)

// claimWord begins the parts of tarn:keep that name prefixes of foreign snapshots.
const claimWord = "claim"

// maxKeepParts bounds the rules and claims of a policy.
const maxKeepParts = 32

// longestAge is what keeps everything, about a century.
const longestAge = 36500 * 24 * time.Hour

// KeepPolicy is what tarn:keep says. The zero value keeps the newest snapshots only.
type KeepPolicy struct {
	Rules []KeepRule
	// Claims are prefixes of names of foreign snapshots that retention may remove.
	Claims []string
}

// KeepRule keeps the first snapshot of every stretch of time.
type KeepRule struct {
	// For is the age up to which the rule applies.
	For time.Duration
	// Every is the length of a stretch, counted from 1970-01-01 UTC; 0 keeps all.
	Every time.Duration
}

// Message is the policy as agents get it; nil for the zero policy.
func (p KeepPolicy) Message() *tarnv1.KeepPolicy {
	if len(p.Rules) == 0 && len(p.Claims) == 0 {
		return nil
	}
	m := &tarnv1.KeepPolicy{Claims: p.Claims}
	for _, r := range p.Rules {
		m.Rules = append(m.Rules, &tarnv1.KeepRule{UpTo: durationpb.New(r.For), Every: durationpb.New(r.Every)})
	}
	return m
}

// Keep is the retention that extra specs ask for. They were checked when the type
// was written; should they not be readable all the same, everything is kept.
func Keep(specs map[string]string) *tarnv1.KeepPolicy {
	text, ok := specs[specKeep]
	if !ok {
		return nil
	}
	p, err := ParseKeep(text)
	if err != nil {
		p = KeepPolicy{Rules: []KeepRule{{For: longestAge}}}
	}
	return p.Message()
}

// KeepText is the retention that extra specs ask for in their own words; "" for none.
func KeepText(specs map[string]string) string { return specs[specKeep] }

// ParseKeep reads "1h:all,24h:1h,30d:1d": up to one hour of age all, then one
// an hour up to a day, then one a day up to thirty. Each distance divides the next,
// so that what a later rule keeps is never removed by an earlier one.
// "claim:PREFIX" adds foreign snapshots to those that the rules are for.
func ParseKeep(s string) (KeepPolicy, error) {
	var p KeepPolicy
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if len(p.Rules)+len(p.Claims) == maxKeepParts {
			return KeepPolicy{}, fmt.Errorf("has more than %d parts", maxKeepParts)
		}
		if prefix, ok := strings.CutPrefix(part, claimWord+":"); ok {
			if err := checkClaim(prefix); err != nil {
				return KeepPolicy{}, err
			}
			p.Claims = append(p.Claims, prefix)
			continue
		}
		rule, err := parseRule(part)
		if err != nil {
			return KeepPolicy{}, err
		}
		if err := p.follows(rule); err != nil {
			return KeepPolicy{}, fmt.Errorf("%w; %q does not", err, part)
		}
		p.Rules = append(p.Rules, rule)
	}
	if len(p.Rules) == 0 {
		return KeepPolicy{}, errors.New("must have at least one AGE:DISTANCE such as 24h:1h")
	}
	return p, nil
}

func parseRule(part string) (KeepRule, error) {
	bad := fmt.Errorf("must be a list of AGE:DISTANCE such as 1h:all,24h:1h,30d:1d; %q is not", part)
	span, every, ok := strings.Cut(part, ":")
	if !ok {
		return KeepRule{}, bad
	}
	var rule KeepRule
	var err error
	if rule.For, err = parseAge(span); err != nil {
		return KeepRule{}, bad
	}
	if every != "all" {
		if rule.Every, err = parseAge(every); err != nil {
			return KeepRule{}, bad
		}
	}
	return rule, nil
}

// follows checks a rule against the one before it.
func (p KeepPolicy) follows(rule KeepRule) error {
	if len(p.Rules) == 0 {
		return nil
	}
	last := p.Rules[len(p.Rules)-1]
	switch {
	case rule.For <= last.For || rule.Every < last.Every:
		return errors.New("ages and distances must grow from rule to rule")
	case last.Every > 0 && rule.Every%last.Every != 0:
		return errors.New("each distance must be a multiple of the one before it")
	}
	return nil
}

// checkClaim refuses prefixes that would cover what is tarn's own, users' snapshots
// above all.
func checkClaim(prefix string) error {
	if len(prefix) < 2 || len(prefix) > 64 {
		return fmt.Errorf("claim:PREFIX needs a prefix of 2 to 64 characters; %q is not", prefix)
	}
	if strings.HasPrefix(prefix, "tarn") || strings.HasPrefix("tarn", prefix) {
		return fmt.Errorf("claim:%s would cover tarn's own snapshots; its rules are for those anyway", prefix)
	}
	if i := strings.IndexFunc(prefix, notInName); i >= 0 {
		return fmt.Errorf("claim:PREFIX is made of letters, digits and _ . : -; %q is not", prefix)
	}
	return nil
}

func notInName(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune("_.:-", r)
}

func parseAge(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		if err != nil || n < 1 || n > 36500 {
			return 0, errors.New("must be 1 to 36500 days")
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, err
	}
	if d < time.Second || d > longestAge {
		return 0, errors.New("must be a second to 36500 days")
	}
	return d, nil
}
