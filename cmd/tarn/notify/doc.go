// Package notify tells a service manager how a daemon is: that it serves, that it lives,
// that it ends. It speaks the protocol of sd_notify(3): one datagram of KEY=VALUE lines
// to the socket that the manager names in the environment. Without one it says nothing.
//
// It imports the standard library only. What being alive means is its caller's to say.
package notify
