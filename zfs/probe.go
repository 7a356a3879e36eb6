package zfs

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// build is what the installed tools can do, whatever the pools.
type build struct {
	engine, version string
	number          int // 203 for 2.3, 0 for unknown

	multiSnapshot  bool // snapshot takes several names
	commaDestroy   bool
	multiSet       bool // set takes several properties
	listExact      bool // list -p
	zpoolExact     bool // zpool list -p
	getTypes       bool // get -t
	guidInAll      bool // get all shows guid and createtxg
	written        bool // else the hidden property unique says the same
	bookmarks      bool
	resume         bool
	receiveOptions bool // receive -o
	dryRun         bool // send -nP
	compressed     bool
	largeBlocks    bool
	embedded       bool
	raw            bool
	holdsListed    bool
	holdsExact     bool // holds -p
	poolSync       bool // zpool sync

	snapshotsChanged bool // property snapshots_changed
}

// poolFeatures are the feature flags of one pool that streams depend on.
type poolFeatures struct {
	resume, bookmarks, largeBlocks, encryption, embedded bool
}

// probe asks the tools: their usage text, their version, and by trying.
func (h *Host) probe(ctx context.Context) (build, error) {
	_, usage, err := h.outputs(ctx, invocation{op: "usage", object: "zfs"}) // no verb: usage, as an error
	if !strings.Contains(usage, "usage:") {
		if err == nil {
			err = &Error{Op: "usage", Object: h.zfs, Class: ErrToolMissing, Text: "this is not zfs(8): it prints no usage", Next: nextToolMissing}
		}
		return build{}, err
	}
	b := readUsage(usage)
	if err := h.probeVersion(ctx, &b); err != nil {
		return build{}, err
	}
	_, zpool, _ := h.outputs(ctx, invocation{op: "usage", object: "zpool", pool: true})
	b.poolSync = strings.Contains(zpool, "\tsync ")
	b.zpoolExact = hasFlag(zpool, "list", 'p')
	_, _, err = h.outputs(ctx, invocation{op: "holds", object: "tarn-probe@none", args: []string{"holds", "-H", "tarn-probe@none"}})
	b.holdsListed = !errors.Is(err, ErrUnsupported) // zfs-fuse calls a script that Debian does not ship
	return b, nil
}

func readUsage(usage string) build {
	b := build{
		multiSnapshot:  strings.Contains(usage, "<filesystem|volume>@<snap> ..."),
		commaDestroy:   strings.Contains(usage, "[%<snap>]"),
		multiSet:       hasOption(usage, "set", "<property=value> ..."),
		listExact:      hasFlag(usage, "list", 'p'),
		getTypes:       hasOption(usage, "get", "[-t type"),
		bookmarks:      strings.Contains(usage, "\tbookmark "),
		resume:         strings.Contains(usage, "receive_resume_token"),
		receiveOptions: hasOption(usage, "receive", "[-o"),
		dryRun:         hasFlag(usage, "send", 'n') && hasFlag(usage, "send", 'P'),
		compressed:     hasFlag(usage, "send", 'c'),
		largeBlocks:    hasFlag(usage, "send", 'L'),
		embedded:       hasFlag(usage, "send", 'e'),
		raw:            hasFlag(usage, "send", 'w'),
		holdsExact:     hasFlag(usage, "holds", 'p'),
	}
	b.written, b.guidInAll = b.bookmarks, b.bookmarks // as old as each other, and not in any usage text
	return b
}

// lines gives the usage lines of one verb, with their continuations.
func usageLines(usage, verb string) string {
	var b strings.Builder
	inside := false
	for line := range strings.Lines(usage) {
		if strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "\t ") {
			inside = strings.HasPrefix(line, "\t"+verb+" ")
		}
		if inside {
			b.WriteString(line)
		}
	}
	return b.String()
}

// hasFlag tells whether a verb knows a one-letter flag without a value, as in
// "send [-DLPcenpvw]".
func hasFlag(usage, verb string, flag byte) bool {
	rest := usageLines(usage, verb)
	for {
		_, after, ok := strings.Cut(rest, "[-")
		if !ok {
			return false
		}
		flags, _, _ := strings.Cut(after, "]")
		flags, _, _ = strings.Cut(flags, " ")
		if strings.IndexByte(flags, flag) >= 0 && !strings.HasPrefix(flags, "-") {
			return true
		}
		rest = after
	}
}

func hasOption(usage, verb, text string) bool { return strings.Contains(usageLines(usage, verb), text) }

// probeVersion names engine and version. zfs-fuse has neither bookmarks nor a
// version command.
func (h *Host) probeVersion(ctx context.Context, b *build) error {
	if b.bookmarks {
		out, err := h.output(ctx, invocation{op: "version", object: "zfs", args: []string{"version"}})
		if err != nil && !errors.Is(err, ErrUnsupported) {
			return err
		}
		b.engine, b.version, b.number = "openzfs", "0.7", 7 // has bookmarks but no zfs version
		if v, n := readVersion(string(out)); v != "" {
			b.version, b.number = v, n
			b.snapshotsChanged = n >= 202
		}
		return nil
	}
	out, err := h.output(ctx, invocation{op: "upgrade", object: "zpool", pool: true, args: []string{"upgrade", "-v"}})
	if err != nil {
		return err
	}
	b.engine, b.version = "zfs-fuse", "pool v23"
	if _, after, ok := strings.Cut(string(out), "running ZFS pool version "); ok {
		v, _, _ := strings.Cut(after, ".")
		b.version = "pool v" + strings.TrimSpace(v)
	}
	return nil
}

// readVersion reads what zfs version prints of the tools, "zfs-2.3.9-0+deb13u1", and in a line
// below of the kernel's module: 2.3.9, 203. The older of the two counts: after an upgrade the
// old module runs until the machine starts anew, and its defects are what matters.
func readVersion(out string) (version string, number int) {
	tools, rest, _ := strings.Cut(strings.TrimSpace(out), "\n")
	rest, ok := strings.CutPrefix(strings.TrimSpace(rest), "zfs-kmod-")
	version, number = takeApart(tools)
	if module, n := takeApart("zfs-" + rest); ok && n != 0 && n < number {
		return module, n
	}
	return version, number
}

// takeApart reads one line of zfs version.
func takeApart(line string) (version string, number int) {
	version, ok := strings.CutPrefix(line, "zfs-")
	if !ok {
		return "", 0
	}
	version, _, _ = strings.Cut(version, "-")
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return version, 0
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		return version, 0
	}
	return version, major*100 + minor
}

// Capabilities are those of the tools and of all pools together: what one pool lacks,
// the host lacks. Pools that are not imported are left out of account.
func (h *Host) Capabilities(ctx context.Context) (Capabilities, error) {
	f, err := h.commonFeatures(ctx)
	if err != nil {
		return Capabilities{}, err
	}
	b := h.build
	return Capabilities{
		Engine: b.engine, Version: b.version,
		Resume: b.resume && f.resume, Bookmarks: b.bookmarks && f.bookmarks,
		Written: true, MultiSnapshot: b.multiSnapshot, HoldsListed: b.holdsListed, Clones: true, ReceiveChecks: !b.receiveOptions, ReceiveProperties: b.receiveOptions,
		Compressed: b.compressed, LargeBlocks: b.largeBlocks && f.largeBlocks, EmbeddedData: b.embedded && f.embedded,
		Raw: b.raw && f.encryption, Encryption: b.raw && f.encryption && b.number >= encryptionSince,
	}, nil
}

// commonFeatures asks every pool for its features, in one process.
func (h *Host) commonFeatures(ctx context.Context) (poolFeatures, error) {
	all := poolFeatures{true, true, true, true, true}
	if !h.build.bookmarks {
		return poolFeatures{}, nil // feature flags came with bookmarks
	}
	args := []string{"get", "-Hp", "-o", "name,property,value", "feature@bookmarks,feature@extensible_dataset,feature@large_blocks,feature@encryption,feature@embedded_data"}
	out, _, err := h.outputs(ctx, invocation{op: "get", object: h.pools[0], pool: true, args: append(args, h.pools...)})
	if err != nil && !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrPoolUnavailable) {
		return all, err
	}
	found := readFeatures(string(out))
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pools {
		f, ok := found[p]
		if !ok {
			continue
		}
		h.features[p] = f
		all = poolFeatures{
			all.resume && f.resume, all.bookmarks && f.bookmarks, all.largeBlocks && f.largeBlocks,
			all.encryption && f.encryption, all.embedded && f.embedded,
		}
	}
	return all, nil
}

// readFeatures reads zpool get -H -o name,property,value feature@....
func readFeatures(out string) map[string]poolFeatures {
	found := map[string]poolFeatures{}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 3 {
			continue
		}
		p := found[f[0]]
		on := slices.Contains([]string{"enabled", "active"}, f[2])
		switch f[1] {
		case "feature@bookmarks":
			p.bookmarks = on
		case "feature@extensible_dataset":
			p.resume = on
		case "feature@large_blocks":
			p.largeBlocks = on
		case "feature@encryption":
			p.encryption = on
		case "feature@embedded_data":
			p.embedded = on
		}
		found[f[0]] = p
	}
	return found
}

// resumable tells whether a pool can keep half-received state. Unknown pools are
// asked by trying.
func (h *Host) resumable(pool string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, known := h.features[pool]
	return h.build.resume && (!known || f.resume)
}

// Pools gives the configured pools in their order. One that is not imported is
// listed with health UNAVAIL and no size.
func (h *Host) Pools(ctx context.Context) ([]PoolStatus, error) {
	args := []string{"list", "-H", "-o", "name,guid,health,size,free"}
	if h.build.zpoolExact {
		args[1] = "-Hp"
	}
	out, err := h.output(ctx, invocation{op: "list", object: h.pools[0], pool: true, args: args})
	if err != nil {
		return nil, err
	}
	found, err := parsePools(string(out), h.build.zpoolExact)
	if err != nil {
		return nil, &Error{Op: "list", Object: "pools", Class: ErrUnclassified, Text: err.Error()}
	}
	list := make([]PoolStatus, 0, len(h.pools))
	for _, name := range h.pools {
		p, ok := found[name]
		if !ok {
			p = PoolStatus{Name: name, Health: "UNAVAIL"}
		}
		list = append(list, p)
	}
	return list, nil
}

func parsePools(out string, exact bool) (map[string]PoolStatus, error) {
	found := map[string]PoolStatus{}
	amount := size
	if exact {
		amount = number
	}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 5 {
			continue // "no pools available"
		}
		p := PoolStatus{Name: f[0], Health: f[2]}
		guid, err1 := parseGUID(f[1])
		total, err2 := amount(f[3])
		free, err3 := amount(f[4])
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, err
		}
		p.GUID, p.Size, p.Free = guid, total, free
		found[p.Name] = p
	}
	return found, nil
}
