package privsep

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"tarn/zfs"
)

// verb is one command of a tool: whether it changes anything, and which arguments it may
// have. What has no entry is not run.
type verb struct {
	changes bool
	check   func(p Policy, args []string) error
}

var zfsVerbs = map[string]verb{
	"version": {false, func(_ Policy, args []string) error { return shape(args, nil, nothing) }},
	"list":    {false, Policy.checkList},
	"get":     {false, Policy.checkGet},
	"holds":   {false, Policy.checkHolds},
	"send":    {false, Policy.checkSend},
	"create":  {true, Policy.checkCreate},
	"clone":   {true, Policy.checkClone},
	"destroy": {true, Policy.checkDestroy},
	"rename":  {true, Policy.checkRename},
	"promote": {true, func(p Policy, args []string) error { return shape(args, nil, one(p.below)) }},
	"set":     {true, Policy.checkSet},
	"inherit": {true, Policy.checkInherit},
	"mount": {true, func(p Policy, args []string) error {
		return shape(args, options{"-o": restricting}, one(p.is(kindReplica)))
	}},
	"unmount":  {true, func(p Policy, args []string) error { return shape(args, options{"-f": nil}, one(p.Owned)) }},
	"snapshot": {true, func(p Policy, args []string) error { return shape(args, nil, each(p.snapshot)) }},
	"rollback": {true, func(p Policy, args []string) error { return shape(args, nil, one(p.snapshot)) }},
	"hold":     {true, Policy.checkHold},
	"release":  {true, Policy.checkHold},
	"bookmark": {true, Policy.checkBookmark},
	"receive":  {true, Policy.checkReceive},
	"load-key": {true, Policy.checkLoadKey},
}

var zpoolVerbs = map[string]verb{
	"list":    {false, Policy.checkPools},
	"get":     {false, Policy.checkPoolGet},
	"status":  {false, func(p Policy, args []string) error { return shape(args, options{"-v": nil}, one(p.configured)) }},
	"sync":    {false, func(p Policy, args []string) error { return shape(args, nil, one(p.configured)) }},
	"upgrade": {false, func(_ Policy, args []string) error { return shape(args, options{"-v": nil}, nothing) }},
}

// options are those that a verb may have, before everything else; a nil check is of one
// without a value.
type options map[string]func(value string) error

// shape holds arguments against options and what follows them.
func shape(args []string, known options, rest func([]string) error) error {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		check, ok := known[args[0]]
		switch {
		case !ok:
			return fmt.Errorf("option %.40q", args[0])
		case check == nil:
			args = args[1:]
		case len(args) < 2:
			return fmt.Errorf("option %s without a value", args[0])
		default:
			if err := check(args[1]); err != nil {
				return fmt.Errorf("option %s: %w", args[0], err)
			}
			args = args[2:]
		}
	}
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			return fmt.Errorf("argument %.40q", a)
		}
	}
	return rest(args)
}

func nothing(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("argument %.40q", args[0])
	}
	return nil
}

func one(check func(string) error) func([]string) error {
	return func(args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%d arguments, one is needed", len(args))
		}
		return check(args[0])
	}
}

func two(first, second func(string) error) func([]string) error {
	return func(args []string) error {
		if len(args) != 2 {
			return fmt.Errorf("%d arguments, two are needed", len(args))
		}
		return errors.Join(first(args[0]), second(args[1]))
	}
}

func each(check func(string) error) func([]string) error {
	return func(args []string) error {
		if len(args) == 0 {
			return errors.New("no arguments")
		}
		for _, a := range args {
			if err := check(a); err != nil {
				return err
			}
		}
		return nil
	}
}

func only(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%.80q is none of %v", v, values)
		}
		return nil
	}
}

// restricting are options of a mount that take rights away.
func restricting(v string) error {
	return each(only("ro", "nosuid", "nodev", "noexec"))(strings.Split(v, ","))
}

// words are lists of columns, properties or kinds: letters, digits and what joins them.
func words(v string) error {
	for _, r := range v {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789_,:@.+-", r) {
			return fmt.Errorf("%.80q holds %q", v, r)
		}
	}
	return nil
}

func (p Policy) checkList(args []string) error {
	return shape(args, options{"-H": nil, "-Hp": nil, "-r": nil, "-d": only("1"), "-t": words, "-o": words}, each(p.visible))
}

func (p Policy) checkGet(args []string) error {
	return shape(args, options{"-H": nil, "-Hp": nil, "-r": nil, "-d": only("1"), "-t": words, "-o": words}, func(args []string) error {
		if len(args) < 2 {
			return errors.New("properties and names are needed")
		}
		return errors.Join(words(args[0]), each(p.visible)(args[1:]))
	})
}

// probed is asked about by the engine to see whether this zfs lists holds; no pool can
// have this name's dataset without being configured.
const probed = "tarn-probe@none"

func (p Policy) checkHolds(args []string) error {
	return shape(args, options{"-H": nil, "-Hp": nil}, one(func(name string) error {
		if name == probed {
			return nil
		}
		return p.snapshot(name)
	}))
}

func (p Policy) checkSend(args []string) error {
	base := func(name string) error {
		if p.snapshot(name) == nil {
			return nil
		}
		return p.bookmark(name)
	}
	token := func(t string) error {
		info, err := zfs.ParseToken(t)
		if err != nil {
			return err
		}
		return p.snapshot(info.ToName)
	}
	known := options{"-nP": nil, "-c": nil, "-e": nil, "-L": nil, "-w": nil, "-i": base, "-t": token}
	return shape(args, known, func(rest []string) error {
		if slices.Contains(args, "-t") {
			return nothing(rest)
		}
		return one(p.snapshot)(rest)
	})
}

func (p Policy) checkCreate(args []string) error {
	return shape(args, options{"-o": p.assignment}, one(func(dataset string) error {
		return errors.Join(p.is(kindBase, kindDir, kindReplica)(dataset), p.placed(dataset, args), p.unmounted(dataset, args), p.harmless(dataset, args))
	}))
}

func (p Policy) checkClone(args []string) error {
	return shape(args, options{"-o": p.assignment}, two(p.snapshot, func(dataset string) error {
		return errors.Join(p.is(kindReplica, kindKept)(dataset), p.placed(dataset, args), p.unmounted(dataset, args))
	}))
}

// checkDestroy allows one filesystem, one bookmark, or snapshots of one filesystem.
func (p Policy) checkDestroy(args []string) error {
	return shape(args, options{"-nvp": nil}, one(func(name string) error {
		if strings.Contains(name, "#") {
			return p.bookmark(name)
		}
		dataset, list, snapshots := strings.Cut(name, "@")
		if !snapshots {
			return p.below(dataset)
		}
		for s := range strings.SplitSeq(list, ",") {
			if err := p.snapshot(dataset + "@" + s); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (p Policy) checkRename(args []string) error {
	return shape(args, nil, func(args []string) error {
		if len(args) == 2 && strings.Contains(args[0], "@") {
			from, _, _ := strings.Cut(args[0], "@")
			if to, _, _ := strings.Cut(args[1], "@"); from != to {
				return errors.New("a snapshot stays with its dataset")
			}
			return two(p.snapshot, p.snapshot)(args)
		}
		return two(p.below, p.is(kindReplica, kindKept))(args)
	})
}

func (p Policy) checkSet(args []string) error {
	return shape(args, nil, func(args []string) error {
		if len(args) < 2 {
			return errors.New("properties and a dataset are needed")
		}
		last := len(args) - 1
		return errors.Join(each(p.assignment)(args[:last]), p.Owned(args[last]), p.placed(args[last], args[:last]))
	})
}

func (p Policy) checkInherit(args []string) error {
	return shape(args, nil, func(args []string) error {
		// The engine lets a pool write what it has by inheriting what is not set.
		if len(args) == 2 && args[0] == "tarn:sync" && p.configured(args[1]) == nil {
			return nil
		}
		if len(args) != 2 {
			return fmt.Errorf("%d arguments, two are needed", len(args))
		}
		if _, known := natives[args[0]]; known {
			// What the base has is what keeps all below it harmless.
			return p.below(args[1])
		}
		return errors.Join(p.mark(args[0], ""), p.Owned(args[1]))
	})
}

func (p Policy) checkHold(args []string) error {
	return shape(args, nil, func(args []string) error {
		if len(args) < 2 {
			return errors.New("a tag and snapshots are needed")
		}
		return errors.Join(zfs.ValidateComponent(args[0]), each(p.snapshot)(args[1:]))
	})
}

func (p Policy) checkBookmark(args []string) error {
	return shape(args, nil, two(p.snapshot, p.bookmark))
}

// checkReceive allows receiving without mounting, or dropping what arrived in part.
func (p Policy) checkReceive(args []string) error {
	if len(args) > 0 && args[0] == "-A" {
		return shape(args, options{"-A": nil}, one(p.below))
	}
	if len(args) == 0 || args[0] != "-u" {
		return errors.New("what arrives is not mounted: -u comes first")
	}
	return shape(args, options{"-u": nil, "-s": nil, "-o": p.assignment}, one(func(name string) error {
		dataset, _, _ := strings.Cut(name, "@")
		return errors.Join(p.snapshot(name), p.is(kindReplica, kindKept)(dataset), p.placed(dataset, args))
	}))
}

func (p Policy) checkLoadKey(args []string) error {
	if len(args) == 0 || args[0] != "-L" {
		return errors.New("the key's file is named: -L comes first")
	}
	return shape(args, options{"-L": p.keyFile}, one(p.below))
}

// keyFile allows files directly in the directory of keys.
func (p Policy) keyFile(url string) error {
	file, ok := strings.CutPrefix(url, "file://")
	if !ok || p.KeyDir == "" || filepath.Clean(file) != file || filepath.Dir(file) != filepath.Clean(p.KeyDir) {
		return fmt.Errorf("%.300q is no file in the directory of keys", url)
	}
	return zfs.ValidateComponent(filepath.Base(file))
}

func (p Policy) configured(pool string) error {
	if _, ok := p.pool(pool); !ok {
		return fmt.Errorf("pool %.80q is not configured", pool)
	}
	return nil
}

func (p Policy) checkPools(args []string) error {
	return shape(args, options{"-H": nil, "-Hp": nil, "-o": words}, func(args []string) error {
		if len(args) == 0 {
			return nil
		}
		return each(p.configured)(args)
	})
}

func (p Policy) checkPoolGet(args []string) error {
	return shape(args, options{"-H": nil, "-Hp": nil, "-o": words}, func(args []string) error {
		if len(args) < 2 {
			return errors.New("properties and pools are needed")
		}
		return errors.Join(words(args[0]), each(p.configured)(args[1:]))
	})
}
