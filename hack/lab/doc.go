// Package lab runs a real Kubernetes cluster in network namespaces: etcd, the
// API server and the rest as processes built from their own Go modules, one
// namespace per host, a bridge as the switch between them. Nothing is mocked
// but the kubelet, whose Pods are HTTP servers; and with [Options.Containers]
// not even that.
//
// A test says what it needs and gets it, with everything removed afterwards:
//
//	l := lab.Start(t, lab.Options{Nodes: 3})
//	l.Product.StartSpeaker(ctx, "node1")
//	l.Network.CutLink(ctx, "node1")
//
// # Parts
//
// A [Lab] puts parts together. Each owns its part of the run and is given, when it is
// made, the parts that it needs; they are above it in this list. What two parts need
// of each other is a part above both.
//
//	run        the name, the directory, the options, state.json    run.go, state.go
//	Network    hosts, addresses, cables, what goes wrong between   network.go, netns.go, faults.go
//	           them; programs and sockets on a host
//	Processes  what was started, and its restart                   processes.go, process.go
//	Cluster    etcd, API server, controllers; credentials,         controlplane.go, pki.go, etcd.go,
//	           kubectl, the audit log                              kubectl.go, audit.go
//	Machines   the nodes: power, kubelets, Pods                    machines.go, machine.go, kubelet.go
//	Product    the controller, the speakers, what they need        product.go
//	           installed
//	Routers    FRR and BIRD on the router                          routers.go, frr.go, bird.go
//	Observers  what hosts see: probe, watch, requests, capture     probe.go, watch.go, request.go, capture.go
//
// The parts are one package: they share what a host is (its namespace, its
// addresses), which nobody else needs to know, and packages of their own would have
// to export that. A test of this package holds their order.
//
// [Options.ControlPlaneOnly] gives etcd and the API server alone, on a loopback
// address of its own; that needs no root.
//
// # Nodes with containers
//
// With [Options.Containers] each node runs a kubelet, containerd, runc and a
// bridge with routes to the other nodes, so that what is applied with kubectl
// is what happens: images, probes, capabilities, DaemonSets, drains. It takes
// ten seconds more and a gigabyte of memory. What is different from a node that
// has the machine for itself:
//
//   - All that a node runs is below one process (hack/lab/cmd/node), the first
//     of a process namespace with mounts of its own: its /run, /var/lib and
//     /var/log are in the run's directory. To kill that process is to cut the
//     node's power; nothing of it, no shim and no mount, outlives it.
//   - Its control groups are below one that bears the run's name, in every
//     hierarchy. They are removed with the run. (Both versions of control groups
//     are provided for; version 1 is what this is run on every day.)
//   - Images are archives ([BuildImages], [Options.Images]) and are imported
//     before the kubelet starts. There is no registry, and no DNS in the cluster.
//   - Where root lacks CAP_SYS_RESOURCE, containers cannot be given limits of
//     open files or an OOM score; a wrapper of runc takes them out.
//   - Leases of nodes are short, so that a dead node is noticed in ten seconds
//     and not in fifty.
//
// Each run has a name, say bf3a9c. Its namespaces are bf3a9c-switch, bf3a9c-cp,
// bf3a9c-node1 and so on, its directory holds state, credentials and logs, and
// everything it starts is known by process id and start time. So runs stand
// side by side, and a later run can remove what a killed one left behind.
// Addresses and ports are the same in every run, as they exist only inside its
// namespaces.
package lab
