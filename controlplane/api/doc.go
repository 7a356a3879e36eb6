// Package api is the control plane's front door: the Connect handlers of tarn.v1.
//
// Each handler is thin: read the view, place if something has to be placed,
// propose one command, answer the stored record. What all share comes before
// it, in order: recover, request id and log line, metrics, roles, validation.
//
// It hides authorization (one table, deny by default), the rules of every field,
// paging, projections for people who are not operators, and the one function that
// turns a domain error into a code.
//
// It may import consensus, schedule, observe, assignment, identity, raftfsm, proto.
//
// It promises that another project's records do not exist for its callers, and
// that an outcome it does not know is called unknown.
package api
