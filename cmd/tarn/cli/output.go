package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// column is one column of a list, or one line of a single record.
type column[T any] struct {
	head string
	cell func(T) string
}

// view says how records of one kind are printed.
type view[T proto.Message] struct {
	id     func(T) string
	list   []column[T]
	detail []column[T]
}

func (v view[T]) printList(a *app, w io.Writer, items []T) error {
	if a.Quiet {
		for _, item := range items {
			fmt.Fprintln(w, v.id(item))
		}
		return nil
	}
	if a.Output != "table" {
		return printMachine(a, w, asMessages(items))
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(heads(v.list), "\t"))
	for _, item := range items {
		fmt.Fprintln(tw, strings.Join(cells(v.list, item), "\t"))
	}
	return tw.Flush()
}

func (v view[T]) printOne(a *app, w io.Writer, item T) error {
	if a.Quiet {
		fmt.Fprintln(w, v.id(item))
		return nil
	}
	if a.Output != "table" {
		return printMachine(a, w, item)
	}
	cols := v.detail
	if cols == nil {
		cols = v.list
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, cell := range cells(cols, item) {
		// A cell of several lines continues under itself.
		for j, line := range strings.Split(cell, "\n") {
			label := strings.ToLower(cols[i].head)
			if j > 0 {
				label = ""
			}
			fmt.Fprintf(tw, "%s\t%s\n", label, line)
		}
	}
	return tw.Flush()
}

func heads[T any](cols []column[T]) []string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = c.head
	}
	return out
}

func cells[T any](cols []column[T], item T) []string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = printable(c.cell(item))
	}
	return out
}

// printable keeps a name from moving the terminal's cursor or breaking columns.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r == 0x7f) {
			return '?'
		}
		return r
	}, s)
}

// printMachine prints a message, or a slice of them, as JSON or YAML with the
// names of the .proto files.
func printMachine(a *app, w io.Writer, value any) error {
	data, err := machine(value)
	if err != nil {
		return err
	}
	if a.Output == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
		_, err = w.Write(data)
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, data, "", "  "); err != nil {
		return fmt.Errorf("indent json: %w", err)
	}
	pretty.WriteByte('\n')
	_, err = pretty.WriteTo(w)
	return err
}

func machine(value any) ([]byte, error) {
	if m, ok := value.(proto.Message); ok {
		return marshal(m)
	}
	if many, ok := value.([]proto.Message); ok {
		return marshalAll(many)
	}
	plain, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode json: %w", err)
	}
	return plain, nil
}

func asMessages[T proto.Message](items []T) []proto.Message {
	out := make([]proto.Message, len(items))
	for i, item := range items {
		out[i] = item
	}
	return out
}

func marshalAll(items []proto.Message) ([]byte, error) {
	raw := make([]json.RawMessage, len(items))
	for i, item := range items {
		data, err := marshal(item)
		if err != nil {
			return nil, err
		}
		raw[i] = data
	}
	return json.Marshal(raw)
}

func marshal(m proto.Message) ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode json: %w", err)
	}
	return data, nil
}

// result is what a command without a record to show has done.
type result struct {
	ID     string `json:"id"`
	Result string `json:"result"`
}

// printResult prints a result; those for programs are kept until printResults.
func (a *app) printResult(id, format string, args ...any) {
	switch {
	case a.Quiet:
		fmt.Fprintln(a.stdout, id)
	case a.Output != "table":
		a.results = append(a.results, result{id, fmt.Sprintf(format, args...)})
	default:
		fmt.Fprintf(a.stdout, format+"\n", args...)
	}
}

// printResults ends a command: its results are one list, however many there are.
func (a *app) printResults() error {
	if len(a.results) == 0 {
		return nil
	}
	return printMachine(a, a.stdout, a.results)
}
