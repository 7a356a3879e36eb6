package zfs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// record is one line of zfs get -o name,property,value,source.
type record struct {
	name, property, value string
	source                Source
}

// sourceAmbiguous marks a user property that appears twice in a listing.
const sourceAmbiguous Source = "ambiguous"

// parseRecords reads the output of zfs get -Hp -o name,property,value,source. Values
// of user properties may hold tabs and newlines: a record ends at the last field of a
// line that is a source and is followed by the begin of another record or by the end.
// A value can be made to look like a record. Native properties are printed before the
// users', so of two the first is true; a user property that appears twice is
// ambiguous, which no rule about marks accepts.
func parseRecords(out string) ([]record, error) {
	var list []record
	if out == "" {
		return nil, nil
	}
	seen := map[[2]string]int{}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i := 0; i < len(lines); {
		text, next := joinRecord(lines, i)
		i = next
		r, err := parseRecord(text)
		if err != nil {
			return nil, err
		}
		key := [2]string{r.name, r.property}
		at, again := seen[key]
		switch {
		case !again:
			seen[key] = len(list)
			list = append(list, r)
		case strings.Contains(r.property, ":"):
			list[at].value, list[at].source = "", sourceAmbiguous
		}
	}
	return list, nil
}

// joinRecord puts the lines of one record together and gives the next record's index.
func joinRecord(lines []string, i int) (text string, next int) {
	text = lines[i]
	for next = i + 1; next < len(lines); next++ {
		if _, complete := cutSource(text); complete && beginsRecord(lines[next]) {
			break
		}
		text += "\n" + lines[next]
	}
	return text, next
}

func parseRecord(text string) (record, error) {
	name, rest, ok := strings.Cut(text, "\t")
	property, rest, ok2 := strings.Cut(rest, "\t")
	i, complete := cutSource(rest)
	if !ok || !ok2 || !complete || !isProperty(property) {
		return record{}, fmt.Errorf("line %.200q is not name, property, value and source", text)
	}
	return record{name, property, rest[:i], sourceOf(rest[i+1:])}, nil
}

// cutSource finds the tab before the source that text ends with.
func cutSource(text string) (tab int, ok bool) {
	tab = strings.LastIndexByte(text, '\t')
	return tab, tab >= 0 && isSource(text[tab+1:])
}

func isSource(s string) bool {
	switch Source(s) {
	case SourceNone, SourceDefault, SourceLocal, SourceReceived, "temporary":
		return true
	}
	from, ok := strings.CutPrefix(s, "inherited from ")
	return ok && isName(from)
}

// isName tells what zfs(8) prints as a dataset's name. Other people's may have spaces.
func isName(s string) bool { return ValidateDataset(strings.ReplaceAll(s, " ", "_")) == nil }

func sourceOf(s string) Source {
	if strings.HasPrefix(s, "inherited from ") {
		return SourceInherited
	}
	return Source(s)
}

// beginsRecord tells whether a line can be the first of a record.
func beginsRecord(line string) bool {
	name, rest, ok := strings.Cut(line, "\t")
	property, _, ok2 := strings.Cut(rest, "\t")
	return ok && ok2 && isName(datasetOf(name)) && isProperty(property)
}

func isProperty(s string) bool {
	for i := range len(s) {
		if b := s[i]; !nameByte(b) && b != '@' && b != '+' || b >= 'A' && b <= 'Z' {
			return false
		}
	}
	return s != ""
}

// number reads a decimal that zfs prints with -p; "-" and "none" are 0.
func number(s string) (int64, error) {
	if s == "-" || s == "none" || s == "" {
		return 0, nil
	}
	u, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number %.50q: %w", s, err)
	}
	return int64(min(u, 1<<63-1)), nil
}

func parseGUID(s string) (GUID, error) {
	u, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("GUID %.50q: %w", s, err)
	}
	return GUID(u), nil
}

// size reads a number that zpool prints without -p: 503M, 1.81T. It is exact to three
// digits, as they are.
func size(s string) (int64, error) {
	if s == "-" {
		return 0, nil
	}
	if s == "" {
		return 0, errors.New("no size")
	}
	shift := strings.IndexByte("BKMGTPE", s[len(s)-1])
	if shift < 0 {
		return number(s)
	}
	f, err := strconv.ParseFloat(s[:len(s)-1], 64)
	if err != nil || f < 0 || f >= 1<<20 {
		return 0, fmt.Errorf("size %.50q is not a number with a unit", s)
	}
	return int64(f * float64(int64(1)<<(10*shift))), nil
}

// dataset fills d from one property.
func (d *Dataset) fill(r record) (err error) {
	switch r.property {
	case "guid":
		d.GUID, err = parseGUID(r.value)
	case "createtxg":
		d.CreateTXG, err = strconv.ParseUint(r.value, 10, 64)
	case "mounted":
		d.Mounted = r.value == "yes"
	case PropMountpoint:
		if strings.HasPrefix(r.value, "/") {
			d.Mountpoint = r.value
		}
	case PropReadOnly:
		d.ReadOnly = r.value == "on"
	case "origin":
		d.Origin = strings.TrimPrefix(r.value, "-")
	case "used":
		d.Used, err = number(r.value)
	case "referenced":
		d.Referenced, err = number(r.value)
	case "available":
		d.Available, err = number(r.value)
	case PropQuota:
		d.Quota, err = number(r.value)
	case PropRefQuota:
		d.RefQuota, err = number(r.value)
	case propSnapshotsChanged:
		var at int64
		if at, err = number(r.value); at > 0 {
			d.SnapshotsChanged = time.Unix(at, 0)
		}
	case "written", "unique":
		d.Written, err = number(r.value)
	case "encryption":
		d.Encrypted = r.value != "off" && r.value != "-"
	case "encryptionroot":
		d.EncryptionRoot = strings.TrimPrefix(r.value, "-")
	case "keystatus":
		d.KeyLoaded = r.value == "available"
	case "receive_resume_token":
		d.ResumeToken = strings.TrimPrefix(r.value, "-")
	default:
		if strings.Contains(r.property, ":") && r.source != SourceNone {
			d.User[r.property] = Property{r.value, r.source}
		}
	}
	return err
}

// datasetsOf groups records by dataset, in their order, and leaves hidden ones out.
func datasetsOf(records []record) ([]Dataset, error) {
	var list []Dataset
	index := map[string]int{}
	for _, r := range records {
		if ValidateDataset(r.name) != nil {
			continue // half-received clones (%recv), snapshots, and names with spaces, which are not tarn's
		}
		i, known := index[r.name]
		if !known {
			i = len(list)
			index[r.name] = i
			list = append(list, Dataset{Name: r.name, Written: -1, User: map[string]Property{}})
		}
		if err := list[i].fill(r); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", r.property, r.name, err)
		}
	}
	return list, nil
}

// parseVersions reads zfs list -Hp -o name,guid,createtxg,creation,userrefs.
func parseVersions(out string) ([]Version, error) {
	var list []Version
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 5 {
			return nil, fmt.Errorf("line %.200q has %d fields, want 5", line, len(f))
		}
		v, ok := splitVersion(f[0])
		if !ok {
			continue
		}
		if err := v.fill([]string{"guid", "createtxg", "creation", "userrefs"}, f[1:]); err != nil {
			return nil, fmt.Errorf("%s: %w", f[0], err)
		}
		list = append(list, v)
	}
	return list, nil
}

// versionsOf makes versions of the records of snapshots.
func versionsOf(records []record) ([]Version, error) {
	var list []Version
	for _, r := range records {
		v, ok := splitVersion(r.name)
		if !ok {
			continue
		}
		if n := len(list); n == 0 || list[n-1].FullName() != r.name {
			list = append(list, v)
		}
		if err := list[len(list)-1].fill([]string{r.property}, []string{r.value}); err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return list, nil
}

// splitVersion takes a full name apart; false for what is neither snapshot nor
// bookmark, and for names that tarn could not use (with a %).
func splitVersion(full string) (Version, bool) {
	if ds, name, err := ValidateSnapshot(full); err == nil {
		return Version{Kind: KindSnapshot, Dataset: ds, Name: name}, true
	}
	if ds, name, err := ValidateBookmark(full); err == nil {
		return Version{Kind: KindBookmark, Dataset: ds, Name: name}, true
	}
	return Version{}, false
}

func (v *Version) fill(properties, values []string) (err error) {
	for i, p := range properties {
		var n int64
		switch p {
		case "guid":
			v.GUID, err = parseGUID(values[i])
		case "createtxg":
			v.CreateTXG, err = strconv.ParseUint(values[i], 10, 64)
		case "creation":
			n, err = number(values[i])
			v.Creation = time.Unix(n, 0)
		case "userrefs":
			n, err = number(values[i])
			v.UserRefs = int(n)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// parseHolds reads zfs holds -H, whose time is a number with -p (2.2 and newer).
func parseHolds(out string) ([]Hold, error) {
	var list []Hold
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("line %.200q has %d fields, want 3", line, len(f))
		}
		h := Hold{Snapshot: f[0], Tag: f[1]}
		if n, err := strconv.ParseInt(f[2], 10, 64); err == nil {
			h.Created = time.Unix(n, 0)
		} else if t, err := time.Parse("Mon Jan _2 15:04 2006", f[2]); err == nil {
			h.Created = t // the tools run with TZ=UTC
		} else {
			return nil, fmt.Errorf("time %.50q of hold %s: %w", f[2], h.Tag, err)
		}
		list = append(list, h)
	}
	return list, nil
}

// parseEstimate reads the output of zfs send -nP: the line "size<TAB>BYTES". Sizes of
// 2^63 and more are nonsense that some versions print: 0, unknown.
func parseEstimate(out string) (int64, error) {
	for line := range strings.Lines(out) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "size\t"); ok {
			u, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("size %.50q: %w", s, err)
			}
			if u >= 1<<63 {
				return 0, nil
			}
			return int64(u), nil
		}
	}
	return 0, errors.New("no size in the answer")
}
