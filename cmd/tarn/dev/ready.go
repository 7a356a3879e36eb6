package dev

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// Client calls the cluster as its operator, in project "default". Close it.
func (c *Cluster) Client() (*client.Client, error) {
	material, err := identity.LoadMaterial(c.pkiDir("operator"))
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{
		Addresses: c.controlAddresses(),
		TLS:       material.ClientConfig(identity.RoleControl),
		Project:   "default",
	})
}

// Ready waits until there is a leader and every agent is up. A node that ended
// meanwhile is an error with the end of its log.
func (c *Cluster) Ready(ctx context.Context) error {
	api, err := c.Client()
	if err != nil {
		return err
	}
	defer api.Close()
	tick := time.NewTicker(2 * pollEvery)
	defer tick.Stop()
	for {
		missing := c.missing(ctx, api)
		if missing == "" {
			return nil
		}
		if err := c.fallen(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the cluster: %s: %w", missing, ctx.Err())
		case <-tick.C:
		}
	}
}

// missing says in a few words what the cluster still lacks, "" when nothing.
func (c *Cluster) missing(ctx context.Context, api *client.Client) string {
	ctx, cancel := context.WithTimeout(ctx, c.Paced(2*time.Second))
	defer cancel()
	s, err := api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{})
	if err != nil {
		return "no answer: " + err.Error()
	}
	agents := len(c.layout.of(Agent))
	switch {
	case s.GetLeaderId() == "":
		return "no leader"
	case len(s.GetRaftServers()) < len(c.layout.of(Control)):
		return fmt.Sprintf("%d of %d control nodes joined", len(s.GetRaftServers()), len(c.layout.of(Control)))
	case int(s.GetHostsUp()) < agents:
		return fmt.Sprintf("%d of %d agents up", s.GetHostsUp(), agents)
	}
	return ""
}

// fallen reports the first node that is down.
func (c *Cluster) fallen() error {
	for _, n := range c.layout.Nodes {
		if state, _ := c.State(n.Name); state == "down" {
			return fmt.Errorf("%s ended; the end of %s:\n%s", n.Name, c.LogFile(n.Name), c.LogTail(n.Name, 10))
		}
	}
	return nil
}

// LogTail is the last lines of a node's log.
func (c *Cluster) LogTail(node string, lines int) string {
	data, err := os.ReadFile(c.LogFile(node))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
