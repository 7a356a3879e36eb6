// Package dev runs a whole cluster as separate processes on loopback addresses,
// from one state directory.
//
// It hides certificates, keys, ports, configuration files, process ids and logs:
// what is left is nodes with names that can be started, stopped, killed and seen.
//
// It may import the configuration types of the daemons and the cluster's identity.
//
// It promises to signal only processes that it started (process id and start time
// must both match), to lose no data over a restart, and never to restart a node
// by itself.
package dev
