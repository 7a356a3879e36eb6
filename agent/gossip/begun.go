package gossip

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
)

// Begun says who began a rotation, and when. It travels with the keys, so that every
// leader can tell, and is for people only: key rings do not differ by it. The zero value
// is what nobody has written down.
type Begun struct {
	By string    // as in audit records: one line of at most 255 bytes
	At time.Time // UTC, whole seconds
}

// begunHeader begins the line of a key file with a Begun. To a tarn that does not know it,
// it is a comment.
const begunHeader = "# tarn rotation begun "

const maxBegunBy = 255

// BegunBy is a Begun of this moment. What does not fit into a line is left out of by.
func BegunBy(by string, at time.Time) Begun {
	line := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(by, ""), func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }), " ")
	for len(line) > maxBegunBy {
		_, last := utf8.DecodeLastRuneInString(line)
		line = strings.TrimSpace(line[:len(line)-last])
	}
	at = at.UTC().Truncate(time.Second)
	if line == "" || at.IsZero() || at.Year() < 1 || at.Year() > 9999 {
		return Begun{}
	}
	return Begun{By: line, At: at}
}

// parseBegun reads what text wrote. Anything else is a comment.
func parseBegun(text string) Begun {
	when, by, _ := strings.Cut(text, " ")
	at, err := time.Parse(time.RFC3339, when)
	if err != nil {
		return Begun{}
	}
	return BegunBy(by, at)
}

func (b Begun) text() string {
	if b.By == "" {
		return ""
	}
	return begunHeader + b.At.Format(time.RFC3339) + " " + b.By + "\n"
}

// Message returns both fields as they travel; the time is nil if nobody is known.
func (b Begun) Message() (by string, at *timestamppb.Timestamp) {
	if b.By == "" {
		return "", nil
	}
	return b.By, timestamppb.New(b.At)
}

func begunOf(m *tarnv1.GossipKeyring) Begun {
	if m.GetBegunAt() == nil || m.GetBegunAt().CheckValid() != nil {
		return Begun{}
	}
	return BegunBy(m.GetBegunBy(), m.GetBegunAt().AsTime())
}
