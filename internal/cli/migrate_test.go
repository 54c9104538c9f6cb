package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/world"
)

// What it takes to come from each load balancer, and from MetalLB of each time that it has
// had. The passwords in what is read stand nowhere in what is written.
func TestAMigrationIsPlannedFromEachSource(t *testing.T) {
	for name, source := range map[string]string{"objects": "metallb", "configmap": "metallb", "cilium": "cilium", "kube-vip": "kube-vip", "purelb": "purelb"} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			for _, output := range []string{"", "yaml", "json"} {
				args := []string{"migrate", "plan", source, "--from", "testdata/migrate/cluster.yaml", "--from", "testdata/migrate/" + name + ".yaml"}
				if output != "" {
					args = append(args, "-o", output)
				}
				text, code := run(t, "", args...)
				if strings.Contains(text, "hunter2") {
					t.Errorf("-o %q writes a password:\n%s", output, text)
				}
				if output != "json" {
					fmt.Fprintf(&got, "$ kubectl belfry %s\n%s[exit %d]\n", strings.Join(slices.DeleteFunc(args, func(a string) bool { return strings.Contains(a, "/") || a == "--from" }), " "), text, code)
				}
			}
			file := "testdata/migrate/" + name + ".txt"
			if *rewrite {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil || got.String() != string(want) {
				t.Errorf("%v; got (go test ./internal/cli -rewrite writes it):\n%s\nwant:\n%s", err, got.String(), want)
			}
		})
	}
}

// The manifest that a plan writes is one that plan -f reads, and Services keep what it
// says they keep.
func TestWhatAMigrationWritesCanBeApplied(t *testing.T) {
	manifest, _ := run(t, "", "migrate", "plan", "metallb", "-o", "yaml", "--from", "testdata/migrate/cluster.yaml", "--from", "testdata/migrate/objects.yaml")
	file := filepath.Join(t.TempDir(), "belfry.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &store{}
	for _, from := range []string{"testdata/migrate/cluster.yaml", file} {
		if err := readFiles(s, from, nil); err != nil {
			t.Fatal(err)
		}
	}
	w := s.world(world.Settings{}, s.moment())
	for _, v := range w.Findings {
		if len(v.Problems) > 0 {
			t.Errorf("%s/%s: %v", v.Kind, v.Name, v.Problems)
		}
	}
	kept := map[string]string{}
	for key, d := range w.Settle().Decisions {
		for _, a := range d.Assignments {
			kept[key.String()] = a.Address.String()
		}
	}
	if kept["web/shop"] != "203.0.113.17" || kept["web/api"] != "198.51.100.3" {
		t.Errorf("Services have %v", kept)
	}
}

// A cluster that has neither has nothing to come from.
func TestAMigrationFromNothingSaysSo(t *testing.T) {
	got, code := run(t, "", "migrate", "plan", "metallb", "--from", "testdata/healthy.yaml")
	if code != CannotLook || !strings.Contains(got, "nothing of MetalLB is in namespace metallb-system: no object of metallb.io") {
		t.Errorf("exit %d: %s", code, got)
	}
	if got, code := run(t, "", "migrate", "plan", "other", "--from", "testdata/healthy.yaml"); code != CannotLook || !strings.Contains(got, "metallb") && !strings.Contains(got, "other") {
		t.Errorf("exit %d: %s", code, got)
	}
}

// metallb are kinds of MetalLB's, as an API server has them, of which one is served in two
// versions.
func metallb() string {
	const definition = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.metallb.io, annotations: {api-approved.kubernetes.io: "unapproved, for a test"}}
spec:
  group: metallb.io
  scope: Namespaced
  names: {plural: %[1]s, kind: %[2]s}
  versions: [%[3]s]
`
	version := func(name string, storage bool) string {
		return fmt.Sprintf("{name: %s, served: true, storage: %t, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}", name, storage)
	}
	var out strings.Builder
	for plural, kind := range map[string]string{
		"ipaddresspools": "IPAddressPool", "l2advertisements": "L2Advertisement", "bgpadvertisements": "BGPAdvertisement",
		"communities": "Community", "bfdprofiles": "BFDProfile", "servicel2statuses": "ServiceL2Status",
	} {
		fmt.Fprintf(&out, definition, plural, kind, version("v1beta1", true))
	}
	fmt.Fprintf(&out, definition, "bgppeers", "BGPPeer", version("v1beta1", false)+", "+version("v1beta2", true))
	return out.String()
}

// comesFromMetalLB plans a migration in a cluster that has MetalLB's objects and nothing of
// Belfry, and returns what is to be applied.
func (c *cluster) comesFromMetalLB() (manifest string) {
	c.Helper()
	objects, err := os.ReadFile("testdata/migrate/objects.yaml")
	c.must(err)
	of := strings.ReplaceAll(string(objects), "namespace: other", "namespace: default")
	of, _, _ = strings.Cut(of, "- apiVersion: frrk8s") // a group of its own, which this cluster does not have
	// Of two versions of one object one is stored.
	of = strings.Replace(of, "  metadata: {name: tor1, namespace: metallb-system}\n  spec: {myASN: 64500, peerASN: 64501, peerAddress: 203.0.113.254}", "  metadata: {name: tor3, namespace: metallb-system}\n  spec: {myASN: 64500, peerASN: 64501, peerAddress: 203.0.113.253}", 1)
	c.must(c.lab.Cluster.Apply(c.Context(), metallb()+"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: metallb-system}\n"))
	_, err = c.lab.Cluster.Kubectl(c.Context(), "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	c.must(err)
	c.must(c.lab.Cluster.Apply(c.Context(), of))
	out, code := c.admin("migrate", "plan", "metallb")
	for _, has := range []string{
		"2 IPAddressPools, 1 L2Advertisement, 1 Community, 1 BFDProfile, 3 BGPPeers, 1 BGPAdvertisement", "spec.gatewayHints", "it is in namespace default, and MetalLB reads its own alone",
		"Plan: 0 of 0 addresses are kept.",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), has) {
			c.Errorf("a migration is planned without %q:\n%s", has, out)
		}
	}
	if code != Well {
		c.Errorf("it ends with %d", code)
	}
	manifest, _ = c.admin("migrate", "plan", "metallb", "-o", "yaml")
	_, err = c.lab.Cluster.Kubectl(c.Context(), "delete", "crd", "-l", "!nothing", "--wait=true")
	c.must(err)
	return manifest
}
