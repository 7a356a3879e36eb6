// Package metrics names everything that tarn shows to Prometheus and serves it.
//
// It hides registries, label order, buckets and the exposition handler. Counters
// and histograms live in the ControlPlane, Agent and RPC structs; everything that
// is a fact of the moment (lag, states, pools, leases) is collected at scrape
// time from plain values, so that a removed share leaves no series behind.
//
// It is a leaf: client_golang and go-metrics (whose global sink the Raft and
// gossip libraries write to) are all it imports. Names follow one vocabulary,
// base units, _total on counters, and bounded labels: never a snapshot, GUID,
// dataset or error text. Alert rules and dashboards beside this file use only
// names that a test finds in these registries.
package metrics
