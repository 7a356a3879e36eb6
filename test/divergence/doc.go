// Package divergence looks at what tarn keeps and removes on real ZFS: divergent
// copies, and snapshots under a policy. It has tests only.
package divergence
