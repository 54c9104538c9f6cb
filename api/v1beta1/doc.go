// Package v1beta1 holds Belfry's API objects, group belfry.dev: what an operator
// writes and what Belfry reports back.
//
// Everything that one object alone can show to be wrong is refused by the API
// server, by the OpenAPI schema and the CEL rules in the markers here, with a
// message that names the field. What it takes two objects to see is reported in
// the condition Accepted (see [ConditionAccepted]).
//
// Values with a grammar of their own (addresses, durations, patterns) are
// strings here and parsed by package config, so that an object stored under an
// older schema can never stop a list of objects from being decoded.
//
// +kubebuilder:object:generate=true
// +groupName=belfry.dev
// +groupGoName=Belfry
package v1beta1
