// Package lab runs a real Kubernetes cluster in network namespaces: etcd, the
// API server and the rest as processes built from their own Go modules, one
// namespace per host, a bridge as the switch between them. Nothing is mocked
// but the kubelet, whose Pods are HTTP servers.
//
// A test says what it needs and gets it, with everything removed afterwards:
//
//	l := lab.Start(t, lab.Options{Nodes: 3})
//	l.StartSpeaker("node1")
//	l.CutLink("node1")
//
// [Options.ControlPlaneOnly] gives etcd and the API server alone, on a loopback
// address of its own; that needs no root.
//
// Each run has a name, say bf3a9c. Its namespaces are bf3a9c-switch, bf3a9c-cp,
// bf3a9c-node1 and so on, its directory holds state, credentials and logs, and
// everything it starts is known by process id and start time. So runs stand
// side by side, and a later run can remove what a killed one left behind.
// Addresses and ports are the same in every run, as they exist only inside its
// namespaces.
package lab
