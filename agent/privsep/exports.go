package privsep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
)

// exports does the verbs about clients of shares. Rules are judged by the exporter, which
// takes prefixes and levels and no option of a server's.
func (s *Server) exports(ctx context.Context, asked call) (a answer, changes bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	switch asked.Verb {
	case verbApply:
		a, err = s.apply(ctx, asked)
		return a, true, err
	case verbRemove:
		if err := one(s.config.Policy.exportable)(asked.Args); err != nil {
			return a, true, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return a, true, s.config.Exporter.Remove(ctx, asked.Args[0])
	}
	if len(asked.Args) > 0 {
		return a, false, fmt.Errorf("%w: argument %.40q", ErrRefused, asked.Args[0])
	}
	list, err := s.config.Exporter.List(ctx)
	if err == nil {
		a.Exported, err = json.Marshal(list)
	}
	return a, false, err
}

func (s *Server) apply(ctx context.Context, asked call) (a answer, err error) {
	if err := two(only("ro", "rw"), s.config.Policy.exportable)(asked.Args); err != nil {
		return a, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	want := new(tarnv1.Exports)
	if err := proto.Unmarshal(asked.Exports, want); err != nil {
		return a, fmt.Errorf("%w: %w", errMessage, err)
	}
	reported, rules, err := s.config.Exporter.Apply(ctx, asked.Args[1], want, asked.Args[0] == "ro")
	if err != nil {
		return a, err
	}
	var err1, err2 error
	a.Reported, err1 = encodeAll(reported)
	a.Rules, err2 = encodeAll(rules)
	return a, errors.Join(err1, err2)
}
