package export

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// severedHost is the directory of an agent whose kernel exports n mountpoints to two clients
// each, and an exportfs that is the given script.
func severedHost(t *testing.T, n int, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	exportfs := filepath.Join(dir, "exportfs")
	if err := os.WriteFile(exportfs, []byte("#!/bin/sh\ncd "+dir+"\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	k, err := NewKernel(KernelConfig{
		Table: filepath.Join(dir, "table.json"), Host: "192.0.2.1", Dir: filepath.Join(dir, "exports.d"),
		Command: []string{exportfs}, Etab: filepath.Join(dir, "etab"), Proc: filepath.Join(dir, "proc"), Caches: filepath.Join(dir, "caches"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var etab strings.Builder
	rows := map[string]Export{}
	for i := range n {
		at := fmt.Sprintf("/p/%d", i)
		rows[at] = Export{Mountpoint: at, Squash: SquashRoot, Clients: []Client{}}
		fmt.Fprintf(&etab, "%s\t10.0.0.1(rw)\n%s\t2001:db8::/32(ro)\n", at, at)
	}
	if err := errors.Join(k.table.change(func(all map[string]Export) {
		for at, e := range rows {
			all[at] = e
		}
	}), os.WriteFile(k.config.Etab, []byte(etab.String()), 0o600), Remember(dir, k)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// severAll wants each of n mountpoints severed at the same time, in its own name.
func severAll(dir string, n int, patience time.Duration) []error {
	s, failed := NewSeverer(dir), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			failed[i] = s.Sever(ctx, func(e Export) bool { return e.Mountpoint == fmt.Sprintf("/p/%d", i) })
		})
	}
	all.Wait()
	return failed
}

// TestLeasesThatEndTogether: the shares of a host are taken from its clients by a few calls
// of exportfs, however many they are.
func TestLeasesThatEndTogether(t *testing.T) {
	const n = 200
	dir := severedHost(t, n, `echo "$#" >>calls; shift; for a; do echo "${a##*:}"; done >gone
awk 'NR==FNR {gone[$1]; next} !($1 in gone)' gone etab >etab.new; mv etab.new etab`)
	until(t, time.Minute, func() error { // a loaded machine needs more than one batch's time
		return errors.Join(severAll(dir, n, time.Minute)...)
	})
	left, err := os.ReadFile(filepath.Join(dir, "etab"))
	if err != nil || len(left) > 0 {
		t.Errorf("still exported, %v:\n%s", err, left)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if n := strings.Count(string(calls), "\n"); err != nil || n == 0 || n > 100 {
		t.Errorf("exportfs was called %d times, with as many arguments, %v:\n%s", n, err, calls)
	}
}

// TestServerThatHoldsUpAll: who waits for a server waits no longer than he said, and what
// is begun for him ends with him.
func TestServerThatHoldsUpAll(t *testing.T) {
	const n, patience = 50, severRoom + 2*time.Second
	dir := severedHost(t, n, "echo $$ >>began\nexec sleep 1000\n")
	begun := time.Now()
	for _, err := range severAll(dir, n, patience) {
		if err == nil {
			t.Error("severed by a server that does not end")
		}
	}
	if took := time.Since(begun); took > patience+5*time.Second { // a loaded machine
		t.Errorf("took %s", took)
	}
	began, err := os.ReadFile(filepath.Join(dir, "began"))
	if err != nil {
		t.Fatal(err)
	}
	for pid := range strings.Lines(string(began)) {
		until(t, 10*time.Second, func() error {
			if _, err := os.Stat(filepath.Join("/proc", strings.TrimSpace(pid), "root")); err == nil {
				return errors.New("an exportfs goes on")
			}
			return nil
		})
	}
}

// TestSeveringTakesNoMoreThanItFits: a command line is bounded.
func TestSeveringTakesNoMoreThanItFits(t *testing.T) {
	dir := severedHost(t, 0, "echo $# >>calls\n")
	k := Kernel{config: KernelConfig{Command: []string{filepath.Join(dir, "exportfs")}}}
	args := make([]string, 10)
	for i := range args {
		args[i] = strings.Repeat("x", argumentBytes/8)
	}
	if err := k.exportfsEach(t.Context(), []string{"-u"}, args); err != nil {
		t.Fatal(err)
	}
	if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || string(calls) != "8\n4\n" {
		t.Errorf("%q, %v", calls, err)
	}
}

// TestOneBadExportHoldsUpNobody: what exportfs does not like is tried again by itself.
func TestOneBadExportHoldsUpNobody(t *testing.T) {
	const n = 5
	dir := severedHost(t, n, `[ "$1" = -u ] || exit 0
shift; rc=0; : >gone; for a; do case $a in */p/3) rc=1;; *) echo "${a##*:}" >>gone;; esac; done
awk 'FILENAME=="gone" {gone[$1]; next} !($1 in gone)' gone etab >etab.new; mv etab.new etab; exit $rc`)
	until(t, time.Minute, func() error {
		failed := severAll(dir, n, time.Minute)
		if failed[3] == nil {
			t.Error("the bad one is told as severed")
		}
		failed[3] = nil
		return errors.Join(failed...)
	})
}
