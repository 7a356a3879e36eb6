package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/uuid"
)

// Kind is which daemon a node runs.
type Kind string

// The kinds; the values are the subcommands of tarn.
const (
	Control Kind = "controlplane"
	Agent   Kind = "agent"
)

// Storage is the kind of what serves the pools of one agent, where that is a
// process of its own.
const Storage Kind = "storage"

// Bounds of a cluster: control nodes use 127.0.0.11 to .20, agents .21 to .220.
const (
	maxServers  = 9
	maxAgents   = 200
	maxPace     = 20
	defaultBase = 7400
	// Every node has the same ports on its own address.
	portMain, portGossip, portAdmin, portNFS = 0, 1, 2, 3
	portsPerNode                             = 4
	loopback                                 = "127.0.0"
)

// Options say what cluster to make. Zero values are the defaults.
type Options struct {
	Servers int    // 1 to 9, default 3
	Agents  int    // 1 to 200, default 4
	Zones   int    // default 2
	Storage string // "dir", or "zfs": real pools, in files
	Port    int    // first of four ports; 0 picks free ones from 7400 on
	// NFS3 has shares served by the agents themselves, over version 3, whatever there is.
	NFS3 bool
	// Network is the first three numbers of all addresses, default "127.0.0". Hosts of
	// another network have to be given it by Enter.
	Network string
	// Pace makes all times as many times as long, for slow machines: 1 to 20, default 1.
	Pace int
}

func (o *Options) check() error {
	if o.Servers == 0 {
		o.Servers = 3
	}
	if o.Agents == 0 {
		o.Agents = 4
	}
	if o.Zones == 0 {
		o.Zones = 2
	}
	if o.Storage == "" {
		o.Storage = "dir"
	}
	if o.Pace == 0 {
		o.Pace = 1
	}
	if o.Network == "" {
		o.Network = loopback
	}
	switch {
	case o.Servers < 1 || o.Servers > maxServers:
		return fmt.Errorf("--servers: %d is not 1 to %d", o.Servers, maxServers)
	case o.Agents < 1 || o.Agents > maxAgents:
		return fmt.Errorf("--agents: %d is not 1 to %d", o.Agents, maxAgents)
	case o.Zones < 1 || o.Zones > o.Agents:
		return fmt.Errorf("--zones: %d is not 1 to the number of agents, %d", o.Zones, o.Agents)
	case net.ParseIP(o.Network+".1").To4() == nil:
		return fmt.Errorf("network %q is not the first three numbers of an IPv4 address", o.Network)
	case o.Pace < 1 || o.Pace > maxPace:
		return fmt.Errorf("--pace: %d is not 1 to %d", o.Pace, maxPace)
	case o.Port < 0 || o.Port > 65535-portsPerNode:
		return fmt.Errorf("--port: %d is not a port", o.Port)
	}
	return nil
}

// Node is one process of the cluster. It does not change after creation.
type Node struct {
	Name  string   `json:"name"`
	Kind  Kind     `json:"kind"`
	IP    string   `json:"ip"`
	Port  int      `json:"port"`
	Zone  string   `json:"zone,omitempty"`
	Pools []string `json:"pools,omitempty"`
	// Host is the agent that a storage node serves.
	Host string `json:"host,omitempty"`
	// NFS is the port on which the agent serves shares over NFS, with NFSVersion 3 by
	// itself or 4 through an NFS-Ganesha; 0 if it does not.
	NFS        int `json:"nfs,omitempty"`
	NFSVersion int `json:"nfs_version,omitempty"`
}

func (n Node) at(offset int) string { return net.JoinHostPort(n.IP, strconv.Itoa(n.Port+offset)) }

// Address is host:port of the node's API or stream listener.
func (n Node) Address() string { return n.at(portMain) }

// Gossip is host:port of the node's gossip listener, UDP and TCP.
func (n Node) Gossip() string { return n.at(portGossip) }

// Admin is host:port of the node's plain listener with /metrics.
func (n Node) Admin() string { return n.at(portAdmin) }

// layout is dev.json: what was decided when the cluster was made.
type layout struct {
	Cluster string `json:"cluster"`
	Storage string `json:"storage"`
	// Engine of storage zfs: the kernel's ZFS, or a zfs-fuse per agent.
	Engine string `json:"engine,omitempty"`
	Zones  int    `json:"zones"`
	// Pace is how many times longer all times are; 0 in older files is 1.
	Pace  int    `json:"pace,omitempty"`
	Nodes []Node `json:"nodes"`
}

func newLayout(o Options) (*layout, error) {
	engine, err := available(o.Storage)
	if err != nil {
		return nil, err
	}
	l := &layout{Cluster: "dev", Storage: o.Storage, Engine: engine, Zones: o.Zones, Pace: o.Pace}
	id := uuid.NewString()[:8]
	for i := range o.Servers {
		l.Nodes = append(l.Nodes, Node{
			Name: fmt.Sprintf("control%d", i+1), Kind: Control, IP: fmt.Sprintf("%s.%d", o.Network, 11+i),
		})
	}
	for i := range o.Agents {
		l.Nodes = append(l.Nodes, Node{
			Name: fmt.Sprintf("agent%d", i+1), Kind: Agent, IP: fmt.Sprintf("%s.%d", o.Network, 21+i),
			Zone: fmt.Sprintf("az%d", i%o.Zones+1), Pools: poolsOf(i),
		})
	}
	base := max(o.Port, defaultBase) // nobody else is on a network of its own
	if o.Network == loopback {
		if base, err = l.freeBase(o.Port); err != nil {
			return nil, err
		}
	}
	for i := range l.Nodes {
		l.Nodes[i].Port = base
	}
	if engine != "" {
		l.addStorage(id)
	}
	l.addNFS(o.NFS3)
	return l, nil
}

// addStorage gives the agents real pools, with names that no other cluster on this
// machine has, and what serves them.
func (l *layout) addStorage(id string) {
	for i, n := range l.of(Agent) {
		for j, p := range n.Pools {
			n.Pools[j] = poolName(p, i+1, id)
		}
		if l.Engine == ZFSFuse {
			l.Nodes = append(l.Nodes, Node{Name: n.Name + "-zfs", Kind: Storage, IP: n.IP, Zone: n.Zone, Host: n.Name})
		}
	}
}

// addNFS gives every agent a server on its address. Real pools have a real one where
// there is any, unless nfs3 says otherwise.
func (l *layout) addNFS(nfs3 bool) {
	version := 3
	if l.Engine != "" && !nfs3 && hasGanesha(machine()) {
		version = 4
	}
	for i := range l.Nodes {
		if n := &l.Nodes[i]; n.Kind == Agent {
			n.NFS, n.NFSVersion = n.Port+portNFS, version
		}
	}
}

// poolsOf gives the second agent two pools, so that placement by pool shows.
func poolsOf(agent int) []string {
	if agent == 1 {
		return []string{"tank", "pond"}
	}
	return []string{"tank"}
}

// freeBase finds ports that are free on every node's address.
func (l *layout) freeBase(wanted int) (int, error) {
	if wanted != 0 {
		return wanted, l.tryBase(wanted)
	}
	var last error
	for base := defaultBase; base < defaultBase+2000; base += 10 {
		if last = l.tryBase(base); last == nil {
			return base, nil
		}
	}
	return 0, fmt.Errorf("find free ports: %w", last)
}

func (l *layout) tryBase(base int) error {
	for _, n := range l.Nodes {
		for offset := range portsPerNode {
			n.Port = base
			ln, err := net.Listen("tcp", n.at(offset))
			if err != nil {
				return err
			}
			if err := ln.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *layout) of(kind Kind) []Node {
	var out []Node
	for _, n := range l.Nodes {
		if n.Kind == kind {
			out = append(out, n)
		}
	}
	return out
}

const layoutFile = "dev.json"

// Exists tells whether dir holds a cluster.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, layoutFile))
	return !errors.Is(err, fs.ErrNotExist)
}

func readLayout(dir string) (*layout, error) {
	data, err := os.ReadFile(filepath.Join(dir, layoutFile))
	if err != nil {
		return nil, fmt.Errorf("read cluster: %w", err)
	}
	var l layout
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, layoutFile), err)
	}
	return &l, nil
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return os.Rename(tmp, path)
}
