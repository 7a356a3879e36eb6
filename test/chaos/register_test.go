package chaos

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// The API, as its users are promised it: each share type is a register under a unique
// name, and every call takes effect at one moment between its begin and its end, or not
// at all. A call whose outcome nobody was told may take effect at any later time, once.

type registerOp int

const (
	opGet registerOp = iota
	opCreate
	opUpdate
	opCompare // update if the revision is still the one that was read
	opDelete
)

func (o registerOp) String() string {
	return [...]string{"get", "create", "update", "update-if", "delete"}[o]
}

// asked is one call; name is the register.
type asked struct {
	op       registerOp
	name, id string
	value    string
	revision uint64
}

type outcome int

const (
	outUnknown outcome = iota
	outOK
	outNotFound
	outExists
	outAborted
)

func (o outcome) String() string {
	return [...]string{"unknown", "ok", "not found", "exists", "aborted"}[o]
}

// answered is what a caller was told. Of the record after success.
type answered struct {
	outcome   outcome
	id, value string
	revision  uint64
}

// register is the state of one name. A revision of 0 is one that nobody has told us.
type register struct {
	exists    bool
	id, value string
	revision  uint64
}

func (r register) has(revision uint64) bool { return r.revision == 0 || r.revision == revision }

// step says whether the answer can be right in this state, and what state follows.
func (r register) step(q asked, a answered) (bool, register) {
	after := r.after(q)
	if a.outcome == outUnknown {
		return true, after
	}
	mine := r.exists && r.id == q.id
	switch q.op {
	case opGet:
		if a.outcome == outNotFound {
			return !r.exists, r
		}
		return r.exists && a.id == r.id && a.value == r.value && r.has(a.revision), register{true, a.id, a.value, a.revision}
	case opCreate:
		if a.outcome == outExists {
			return r.exists && !(mine && r.value == q.value), r
		}
		after.revision = a.revision
		return a.outcome == outOK && (!r.exists || mine && r.value == q.value), after
	case opUpdate:
		switch a.outcome {
		case outNotFound:
			return !mine, r
		case outAborted: // it was told to try again, and that nothing was done
			return true, r
		}
		after.revision = a.revision
		return mine && a.value == q.value, after
	case opCompare:
		switch a.outcome {
		case outNotFound:
			return !mine, r
		case outAborted:
			return !mine || r.revision == 0 || r.revision != q.revision, r
		}
		after.revision = a.revision
		return mine && r.has(q.revision) && a.value == q.value, after
	}
	if a.outcome == outNotFound {
		return !mine, r
	}
	return a.outcome == outOK && mine, after
}

// after is the state that a call leaves behind when it takes effect.
func (r register) after(q asked) register {
	mine := r.exists && r.id == q.id
	switch {
	case q.op == opCreate && !r.exists:
		return register{exists: true, id: q.id, value: q.value}
	case q.op == opUpdate && mine, q.op == opCompare && mine && r.has(q.revision):
		return register{exists: true, id: q.id, value: q.value}
	case q.op == opDelete && mine:
		return register{}
	}
	return r
}

// registers is the model of all names; each is judged by itself.
func registers() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byName := map[string][]porcupine.Operation{}
			for _, op := range history {
				name := op.Input.(asked).name
				byName[name] = append(byName[name], op)
			}
			var out [][]porcupine.Operation
			for _, ops := range byName {
				out = append(out, ops)
			}
			return out
		},
		Init: func() any { return register{} },
		Step: func(state, input, output any) (bool, any) {
			return state.(register).step(input.(asked), output.(answered))
		},
		DescribeOperation: func(input, output any) string {
			q, a := input.(asked), output.(answered)
			return fmt.Sprintf("%s %s %.8s=%s @%d: %s %.8s=%s @%d", q.op, q.name, q.id, q.value, q.revision, a.outcome, a.id, a.value, a.revision)
		},
	}
}
