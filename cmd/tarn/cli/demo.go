package cli

import (
	"context"
	"fmt"
	"os"

	"tarn/cmd/tarn/demo"
)

type demoCmd struct {
	State   string `help:"Empty directory for the cluster; a temporary one if left out." type:"path" placeholder:"DIR"`
	Keep    bool   `help:"Leave the cluster running at the end."`
	Storage string `help:"Storage of the hosts: dir, or zfs: real pools, as root." enum:"dir,zfs" default:"dir"`
	Pace    int    `help:"All times that many times as long, up to 20: for slow machines." default:"1"`
	Scrape  string `help:"Save every process's /metrics page there." type:"path" placeholder:"DIR"`
}

func (c *demoCmd) Run(ctx context.Context, a *app) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	if c.State == "" {
		if c.State, err = demo.DefaultDir(); err != nil {
			return err
		}
	}
	return demo.Run(ctx, demo.Config{Binary: binary, Dir: c.State, Out: a.stdout, Keep: c.Keep, Scrape: c.Scrape, Storage: c.Storage, Pace: c.Pace})
}
