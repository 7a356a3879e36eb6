package api

import (
	"cmp"
	"encoding/base64"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// cursor is a position in a sorted list: the sort key of the last record given, a
// number or a text, and its id, which makes it unique. It survives the record's
// deletion.
type cursor struct {
	number int64
	text   string
	id     string
}

func (c cursor) compare(other cursor) int {
	return cmp.Or(cmp.Compare(c.number, other.number), strings.Compare(c.text, other.text), strings.Compare(c.id, other.id))
}

// token is opaque to callers but no secret: it says no more than the list did.
func (c cursor) token() string {
	raw := c.id + "\x00" + strconv.FormatInt(c.number, 10) + "\x00" + c.text
	return base64.RawURLEncoding.EncodeToString([]byte(raw))
}

func parseCursor(token string) (cursor, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return cursor{}, err
	}
	id, rest, _ := strings.Cut(string(raw), "\x00")
	number, text, ok := strings.Cut(rest, "\x00")
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || id == "" || err != nil {
		return cursor{}, errors.New("no position in page token")
	}
	return cursor{number: n, text: text, id: id}, nil
}

// byTime is the position of a record in the order of creation.
func byTime(created *timestamppb.Timestamp, id string) cursor {
	return cursor{number: created.AsTime().UnixNano(), id: id}
}

// window says which part of a list is wanted.
type window struct {
	limit      int32
	token      string
	descending bool
}

// page walks all records, counts those that keep says yes to, and returns those
// of the window in order, and the token of the next page ("" at the end). It
// copies nothing: what is not printed costs one comparison.
func page[T any](all iter.Seq[T], keep func(T) bool, at func(T) cursor, w window) (found []T, next string, total int32) {
	start, paged := cursor{}, w.token != ""
	if paged {
		// Validation has refused malformed tokens already.
		start, _ = parseCursor(w.token)
	}
	type entry struct {
		at   cursor
		item T
	}
	order := func(a, b entry) int {
		if w.descending {
			a, b = b, a
		}
		return a.at.compare(b.at)
	}
	var entries []entry
	for item := range all {
		if !keep(item) {
			continue
		}
		total++
		if e := (entry{at(item), item}); !paged || order(entry{at: start}, e) < 0 {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, order)
	limit := int(w.limit)
	if limit == 0 {
		limit = maxPage
	}
	if len(entries) > limit {
		entries = entries[:limit]
		next = entries[limit-1].at.token()
	}
	for _, e := range entries {
		found = append(found, e.item)
	}
	return found, next, total
}
