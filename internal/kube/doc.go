// Package kube is the edge towards the Kubernetes API: it follows the API
// server's objects in the nouns of package lb, and writes what was decided.
//
// # Reading
//
// A Cluster runs one client-go reflector per kind and keeps what they deliver in
// tables of its own instead of informer caches. Package objects reduces each object
// to what a decision can depend on before it is stored, once per event. There is no
// second copy, no queue of deltas and no goroutine per listener, and the whole API
// object is garbage as soon as it has been read.
//
// # Writing, and reading one's own writes
//
// A watch lags behind the API server, so a program that writes and then decides from
// the watch alone may hand out an address twice. Usually that calls for a second
// layer of "assumed" objects on top of the cache, and for rules about when an
// assumption ends. Here there is no second layer: the object with which the API
// server answers a write enters the same table as the watch's events do, and a
// table keeps the newest version of an object whatever brought it.
// (Resource versions are comparable by contract since Kubernetes 1.35, and have
// always been in practice.)
//
// A write whose answer never came may have happened or not. Every write that
// moves an address names the version it was decided upon, so the first newer
// version of the object to be seen settles the matter: either it is ours, or
// ours can never happen any more. Until then the loop counts the write as done.
//
// # One write per Service
//
// For Services the API server takes metadata changes along with a status update,
// so ingress, conditions and annotations travel in one PATCH of services/status.
// It is a strategic merge patch with the version seen as its precondition. Not a
// server-side apply: that costs the API server several times as much, leaves a
// managedFields entry with every write, and its own notion of conflict, by field
// and manager, is not what matters here. What matters is that the Service has
// not become another one since it was decided upon.
package kube
