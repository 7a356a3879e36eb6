package dev

import "time"

// Paced is d as many times as long as this cluster's times are longer than usual.
func (c *Cluster) Paced(d time.Duration) time.Duration {
	return d * time.Duration(max(1, c.layout.Pace))
}

func (c *Cluster) paced(d time.Duration) string { return c.Paced(d).String() }

// leaseClocks are those of a playground: failures are noticed in seconds. The inequalities
// between them are the same as in production and checked by the daemons.
func (c *Cluster) leaseClocks() map[string]any {
	return map[string]any{"duration": c.paced(3 * time.Second), "renew": c.paced(500 * time.Millisecond), "margin": c.paced(time.Second)}
}

// gossipProfile is the most patient one where things are slow.
func (c *Cluster) gossipProfile() string {
	if c.layout.Pace > 1 {
		return "wan"
	}
	return "local"
}

func (c *Cluster) nodeConfig(n Node) map[string]any {
	common := map[string]any{
		"name":      n.Name,
		"data_dir":  c.dataDir(n),
		"listen":    n.Address(),
		"advertise": n.Address(),
		"join":      c.controlAddresses(),
		"pki_dir":   c.pkiDir(n.Name),
		"gossip": map[string]any{
			"bind":    n.Gossip(),
			"join":    c.gossipAddresses(),
			"profile": c.gossipProfile(),
		},
		"admin": map[string]any{"listen": n.Admin()},
	}
	if n.Kind == Control {
		return c.controlConfig(common)
	}
	return c.agentConfig(common, n)
}

func (c *Cluster) controlConfig(cfg map[string]any) map[string]any {
	servers := len(c.layout.of(Control))
	cfg["bootstrap_expect"] = servers
	if servers == 1 {
		// There is nobody to join, and a node that says so is asked to decide.
		delete(cfg, "join")
	}
	cfg["raft"] = map[string]any{"heartbeat_timeout": c.paced(time.Second), "promote_after": c.paced(2 * time.Second)}
	lease := c.leaseClocks()
	lease["wait"] = c.paced(5 * time.Second)
	cfg["lease"] = lease
	cfg["hosts"] = map[string]any{"ttl": c.paced(4 * time.Second), "report_interval": c.paced(time.Second)}
	return cfg
}

func (c *Cluster) agentConfig(cfg map[string]any, n Node) map[string]any {
	cfg["availability_zone"] = n.Zone
	cfg["storage"] = c.layout.Storage
	var pools []map[string]any
	for _, p := range n.Pools {
		pool := map[string]any{"name": p, "replication_domain": c.layout.Cluster}
		if c.layout.Engine == "" {
			pool["path"], pool["capacity"] = c.poolDir(n, p), "100GiB"
		} else {
			pool["mountpoint"] = c.mountRoot(n, p)
		}
		pools = append(pools, pool)
	}
	cfg["pool"] = pools
	cfg["lease"] = c.leaseClocks()
	if n.NFS != 0 {
		// Clients of a playground are ordinary users of this machine, whose ports are high.
		server := "embedded"
		if n.NFSVersion == 4 {
			server = "ganesha"
		}
		cfg["export"] = map[string]any{"server": server, "listen": n.at(portNFS), "any_port": true}
	}
	return cfg
}
