package manifests

import (
	"context"
	"strings"
	"testing"
)

// foreignKinds are kinds of the same names, in a group that the API server ranks
// before ours: here by its name, in life by its priority too (Calico's own API
// server has 1500, CRDs have 1000).
const foreignKinds = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: bgppeers.another.example}
spec:
  group: another.example
  scope: Cluster
  names: {kind: BGPPeer, plural: bgppeers, singular: bgppeer}
  versions: [{name: v3, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ipaddresspools.another.example}
spec:
  group: another.example
  scope: Cluster
  names: {kind: IPAddressPool, plural: ipaddresspools, singular: ipaddresspool, shortNames: [pools]}
  versions: [{name: v3, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`

const bothKinds = `
{apiVersion: another.example/v3, kind: BGPPeer, metadata: {name: router}}
---
{apiVersion: another.example/v3, kind: IPAddressPool, metadata: {name: edge}}
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: router}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1}
---
apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: edge}
spec: {addresses: [192.0.2.0/24, "2001:db8::/64"]}
`

func TestTheUninstallLeavesOtherPeoplesObjects(t *testing.T) {
	l := installed(t)
	if err := l.Cluster.Apply(t.Context(), foreignKinds); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{"customresourcedefinitions/bgppeers.another.example", "customresourcedefinitions/ipaddresspools.another.example"} {
			if _, err := l.Cluster.Kubectl(context.Background(), "delete", name, "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		}
	})
	names := func(args ...string) string {
		out, err := l.Cluster.Kubectl(t.Context(), append(args, "--output=name")...)
		if err != nil {
			t.Log(err)
		}
		return out
	}
	const theirs, ours = "bgppeers.another.example,ipaddresspools.another.example", "bgppeers.belfry.dev,ipaddresspools.belfry.dev"
	for n, how := range []string{"manifests", "Helm"} {
		eventually(t, "both groups take objects", func() bool {
			err := l.Cluster.Apply(t.Context(), bothKinds)
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
		want := names("get", theirs)
		eventually(t, "the name without a group means theirs", func() bool { return want != "" && names("get", "bgppeers,pools") == want })
		script := documented(t, "## Uninstall", n)
		ran := 0
		for line := range strings.Lines(script) {
			if args := strings.Fields(line); len(args) > 2 && args[0] == "kubectl" && args[1] == "delete" && args[2] == "--all" {
				ran++
				if _, err := l.Cluster.Kubectl(t.Context(), args[1:]...); err != nil {
					t.Errorf("%s: %v", how, err)
				}
			}
		}
		if ran == 0 {
			t.Fatalf("%s: no line of the page deletes our objects:\n%s", how, script)
		}
		if got := names("get", theirs); got != want {
			t.Errorf("%s: of theirs is left %q, not %q", how, got, want)
		}
		if left := names("get", ours); left != "" {
			t.Errorf("%s: of ours is left %q", how, left)
		}
	}
}
