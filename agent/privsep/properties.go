package privsep

import (
	"fmt"
	"slices"
	"strings"

	"tarn/zfs"
)

// natives are the properties that may be set, with the values that keep a replica from
// becoming reachable, privileged or bootable by itself. exec is a share's own business.
var natives = map[string]func(p Policy, value string) error{
	"quota": amount, "refquota": amount, "reservation": amount, "refreservation": amount, "recordsize": amount,
	"readonly": enum("on", "off"), "atime": enum("on", "off"), "exec": enum("on", "off"),
	"canmount": enum("off", "noauto"), "setuid": enum("off"), "devices": enum("off"),
	"sharenfs": enum("off"), "sharesmb": enum("off"),
	"snapdir": enum("hidden", "visible"), "xattr": enum("on", "off", "sa", "dir"),
	"acltype": enum("off", "noacl", "posix", "posixacl", "nfsv4"), "compression": word, "encryption": word,
	"keyformat": enum("raw"),
	"keylocation": func(p Policy, v string) error {
		if v == "prompt" {
			return nil
		}
		return p.keyFile(v)
	},
	"mountpoint": func(p Policy, v string) error {
		if v == "none" {
			return nil
		}
		return p.mountable(v)
	},
}

func enum(values ...string) func(Policy, string) error {
	check := only(values...)
	return func(_ Policy, v string) error { return check(v) }
}

func amount(_ Policy, v string) error {
	if v != "none" && (v == "" || len(v) > 20 || strings.Trim(v, "0123456789") != "") {
		return fmt.Errorf("%.80q is no number of bytes", v)
	}
	return nil
}

func word(_ Policy, v string) error {
	if v == "" || len(v) > 32 || strings.Contains(v, ",") {
		return fmt.Errorf("%.80q is no word", v)
	}
	return words(v)
}

// assignment allows NAME=VALUE.
func (p Policy) assignment(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%.80q is no assignment", text)
	}
	if check, known := natives[name]; known && !slices.Contains(p.also, text) {
		if err := check(p, value); err != nil {
			return fmt.Errorf("property %s: %w", name, err)
		}
		return nil
	}
	if slices.Contains(p.also, text) {
		return nil
	}
	return p.mark(name, value)
}

// mark allows user properties of tarn's.
func (p Policy) mark(name, value string) error {
	if !strings.HasPrefix(name, "tarn:") {
		return fmt.Errorf("property %.80q", name)
	}
	return zfs.ValidateUserProperty(name, value)
}
