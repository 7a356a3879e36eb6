package cli

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// maxWaitFlags bound how long hosts are waited for, which answer with their next report.
type maxWaitFlags struct {
	MaxWait time.Duration `help:"How long to wait for the hosts' answers, 1s to 20s." default:"8s" placeholder:"DURATION"`
}

func (f maxWaitFlags) wait() *durationpb.Duration { return durationpb.New(f.MaxWait) }
