// Package e2e tests the real program as a user has it: separate processes on
// loopback, real bytes, kill -9. It takes minutes: make e2e.
package e2e
