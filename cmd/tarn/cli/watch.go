package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"
)

// watchFlags let a list or a record be looked at until interrupted.
type watchFlags struct {
	Watch    bool          `short:"w" help:"Print again whenever it changes, until interrupted."`
	Interval time.Duration `help:"How often --watch looks." default:"1s"`
}

// repeat renders once, or with --watch again and again: in place on a terminal,
// one block per change elsewhere.
func (a *app) repeat(ctx context.Context, flags watchFlags, render func(context.Context, io.Writer) error) error {
	if !flags.Watch {
		return render(ctx, a.stdout)
	}
	if flags.Interval < 100*time.Millisecond {
		return usage("--interval: %s is below 100ms", flags.Interval)
	}
	tick := time.NewTicker(flags.Interval)
	defer tick.Stop()
	var last []byte
	for {
		var page bytes.Buffer
		if err := render(ctx, &page); err != nil {
			return endOfWatch(ctx, err)
		}
		if !bytes.Equal(page.Bytes(), last) {
			a.showPage(page.Bytes(), last != nil)
			last = page.Bytes()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// endOfWatch makes Ctrl-C the normal end of a watch, not an error.
func endOfWatch(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *app) showPage(page []byte, again bool) {
	switch {
	case isTerminal(a.stdout):
		fmt.Fprint(a.stdout, "\x1b[H\x1b[2J")
	case again:
		fmt.Fprintln(a.stdout)
	}
	a.stdout.Write(page)
}

// pageFlags bound a list.
type pageFlags struct {
	Limit int  `help:"At most so many records; 0 is all." default:"0"`
	Stale bool `help:"Let any node answer from its own state."`
	All   bool `name:"all-projects" help:"Of every project; operators only."`
}

// collect fetches page after page. fetch gets the limit for one page and the
// token, and answers with items and the next token.
func collect[T any](flags pageFlags, fetch func(limit int32, token string) ([]T, string, error)) ([]T, error) {
	if flags.Limit < 0 {
		return nil, usage("--limit: %d is negative", flags.Limit)
	}
	const page = 1000
	var all []T
	for token := ""; ; {
		limit := page
		if flags.Limit > 0 {
			limit = min(page, flags.Limit-len(all))
		}
		items, next, err := fetch(int32(limit), token)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if next == "" || (flags.Limit > 0 && len(all) >= flags.Limit) {
			return all, nil
		}
		token = next
	}
}
