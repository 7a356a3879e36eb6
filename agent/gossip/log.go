package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
)

// logWriter turns memberlist's lines, "[WARN] memberlist: text", into records.
type logWriter struct{ log *slog.Logger }

func newLog(l *slog.Logger) *log.Logger { return log.New(logWriter{l}, "", 0) }

// Write implements io.Writer; each call is one line.
func (w logWriter) Write(line []byte) (int, error) {
	level, text := parseLine(string(bytes.TrimSpace(line)))
	w.log.Log(context.Background(), level, "memberlist", "text", text)
	return len(line), nil
}

// parseLine lowers memberlist's levels by one step: a peer that cannot be
// reached is an error to it and daily life to us, and info is chatter.
func parseLine(line string) (slog.Level, string) {
	level := slog.LevelDebug
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if name, text, ok := strings.Cut(rest, "] "); ok {
			line = text
			switch name {
			case "ERR", "ERROR":
				level = slog.LevelWarn
			case "WARN":
				level = slog.LevelInfo
			}
		}
	}
	return level, strings.TrimPrefix(line, "memberlist: ")
}
