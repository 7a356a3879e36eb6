// Package schedule decides which pool a replica goes to. It is pure: it sees a
// Request and an Inventory and answers with a Placement, or with a Failure that
// says for every pool which filter refused it and why.
//
// It hides the filters, the weights and the index that makes a placement cost
// O(log pools) instead of a scan. It imports proto/tarn/v1 only and knows
// neither clock nor randomness.
//
// It promises: no constraint is ever violated; the same request on the same
// inventory gives the same answer; the index and the plain scan (scan.go) agree.
package schedule
