// Package fabric is a network of hosts on one machine whose every packet passes
// through the test.
//
// It hides network namespaces, TUN devices and routing. A host is a namespace with
// one device; what it sends is read here and, if the link from it to the receiver
// says so, written to the receiver's device: now, later, or never. Links are
// directed, so that partitions can have every shape, and no packet filter or traffic
// shaper of the kernel is needed.
//
// It imports nothing of tarn. It promises that a host reaches nothing but the
// hosts of its fabric, and that all of it is gone when the process ends.
package fabric
