package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A constraint is a SecurityContextConstraints of OpenShift, as far as our Pods have to
// do with it. What is not here is refused when one is read.
type constraint struct {
	APIVersion, Kind         string
	Metadata                 object
	AllowHostDirVolumePlugin bool
	AllowHostIPC             bool
	AllowHostNetwork         bool
	AllowHostPID             bool
	AllowHostPorts           bool
	AllowPrivilegeEscalation bool
	AllowPrivilegedContainer bool
	AllowedCapabilities      []string
	RequiredDropCapabilities []string
	ReadOnlyRootFilesystem   bool
	RunAsUser                strategy
	SELinuxContext           strategy `json:"seLinuxContext"`
	SeccompProfiles          []string
	FSGroup                  strategy `json:"fsGroup"`
	SupplementalGroups       strategy
	Volumes                  []string
}

type strategy struct{ Type string }

// restrictedV2 is what OpenShift 4 comes with, and every account may use.
const restrictedV2 = `
allowedCapabilities: [NET_BIND_SERVICE]
requiredDropCapabilities: [ALL]
runAsUser: {type: MustRunAsRange}
seLinuxContext: {type: MustRunAs}
seccompProfiles: [runtime/default]
fsGroup: {type: MustRunAs}
supplementalGroups: {type: RunAsAny}
volumes: [configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim, projected, secret]
`

// A template is what a constraint looks at in the template of a Pod.
type template struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		HostNetwork, HostPID, HostIPC bool
		SecurityContext               context
		Volumes                       []map[string]any
		Containers                    []struct {
			Ports           []struct{ HostPort int }
			SecurityContext context
		}
	}
}

type context struct {
	RunAsUser                *int64
	RunAsNonRoot             *bool
	FSGroup                  *int64 `json:"fsGroup"`
	SupplementalGroups       []int64
	SELinuxOptions           object `json:"seLinuxOptions"`
	SeccompProfile           struct{ Type string }
	Privileged               bool
	AllowPrivilegeEscalation *bool
	ReadOnlyRootFilesystem   bool
	Capabilities             struct{ Add, Drop []string }
}

func constraintOf(t *testing.T, text string) (c constraint) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// refuses lists why OpenShift would not admit a Pod under a constraint. A user, a group
// or a label of SELinux that the Pod leaves open the constraint fills in.
func (c constraint) refuses(p template) (why []string) {
	no := func(wrong bool, format string, args ...any) {
		if wrong {
			why = append(why, fmt.Sprintf(format, args...))
		}
	}
	s := p.Spec
	no(s.HostNetwork && !c.AllowHostNetwork, "hostNetwork")
	no(s.HostPID && !c.AllowHostPID, "hostPID")
	no(s.HostIPC && !c.AllowHostIPC, "hostIPC")
	no(s.SecurityContext.FSGroup != nil && c.FSGroup.Type != "RunAsAny", "fsGroup")
	no(s.SecurityContext.SupplementalGroups != nil && c.SupplementalGroups.Type != "RunAsAny", "supplementalGroups")
	for _, v := range s.Volumes {
		for kind := range v {
			no(kind != "name" && !slices.Contains(c.Volumes, kind), "volume %s", kind)
		}
	}
	no(!slices.Contains(c.Volumes, "projected"), "volume projected, of the account's token")
	for _, container := range s.Containers {
		x := container.SecurityContext
		for _, port := range container.Ports {
			no(port.HostPort != 0 && !c.AllowHostPorts, "hostPort %d", port.HostPort)
		}
		user := x.RunAsUser
		if user == nil {
			user = s.SecurityContext.RunAsUser
		}
		no(user != nil && c.RunAsUser.Type != "RunAsAny", "runAsUser %v", deref(user))
		no((x.SELinuxOptions != nil || s.SecurityContext.SELinuxOptions != nil) && c.SELinuxContext.Type != "RunAsAny", "seLinuxOptions")
		profile := x.SeccompProfile.Type
		if profile == "" {
			profile = s.SecurityContext.SeccompProfile.Type
		}
		no(profile != "RuntimeDefault" || !slices.Contains(c.SeccompProfiles, "runtime/default"), "seccompProfile %q", profile)
		no(x.Privileged && !c.AllowPrivilegedContainer, "privileged")
		no((x.AllowPrivilegeEscalation == nil || *x.AllowPrivilegeEscalation) && !c.AllowPrivilegeEscalation, "allowPrivilegeEscalation")
		no(!x.ReadOnlyRootFilesystem && c.ReadOnlyRootFilesystem, "a file system that can be written")
		for _, power := range x.Capabilities.Add {
			no(!slices.Contains(c.AllowedCapabilities, power), "capability %s", power)
		}
		for _, power := range c.RequiredDropCapabilities {
			no(!slices.Contains(x.Capabilities.Drop, power), "capability %s is not dropped", power)
		}
	}
	return why
}

func deref(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

// podsOf returns the template of a workload.
func podsOf(t *testing.T, workload object) (p template) {
	t.Helper()
	text, err := yaml.Marshal(workload["spec"].(object)["template"])
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Without the component both are refused; with it the controller needs nothing that
// not every account may use, and the speaker what its own constraint says.
func TestOpenShiftAdmitsThePods(t *testing.T) {
	restricted := constraintOf(t, restrictedV2)
	plain := rendered(t, "overlays/both")
	for workload, want := range map[string]string{
		"Deployment belfry-controller": "runAsUser 65532",
		"DaemonSet belfry-speaker":     "hostNetwork, hostPort 7871, hostPort 7873, hostPort 7870, hostPort 7870, hostPort 7874, runAsUser 0, capability NET_RAW",
	} {
		if got := strings.Join(restricted.refuses(podsOf(t, plain[workload])), ", "); got != want {
			t.Errorf("restricted-v2 refuses %s for %q, want %q", workload, got, want)
		}
	}
	for what, all := range map[string]map[string]object{
		"component":                   with(t, "openshift"),
		"chart":                       charted(t, "openshift: {enabled: true}"),
		"chart, BGP alone":            charted(t, "{openshift: {enabled: true}, speaker: {rawSockets: false}}"),
		"chart, with its certificate": charted(t, "{openshift: {enabled: true}, metrics: {certificateSecret: tls}}"),
	} {
		text, err := yaml.Marshal(all["SecurityContextConstraints belfry-speaker"])
		if err != nil {
			t.Fatal(err)
		}
		ours := constraintOf(t, string(text))
		for _, c := range []struct {
			workload, account, uses string
			constraint
		}{
			{"Deployment belfry-controller", "belfry-controller", "restricted-v2", restricted},
			{"DaemonSet belfry-speaker", "belfry-speaker", "belfry-speaker", ours},
		} {
			pods := podsOf(t, all[c.workload])
			if why := c.refuses(pods); why != nil {
				t.Errorf("%s: %s is refused for %v", what, c.workload, why)
			}
			if got := pods.Metadata.Annotations["openshift.io/required-scc"]; got != c.uses {
				t.Errorf("%s: %s asks for %q", what, c.workload, got)
			}
			role := fmt.Sprint(all["Role "+c.account+"-scc"]["rules"])
			if !strings.Contains(role, "resourceNames:["+c.uses+"]") || !strings.Contains(role, "verbs:[use]") {
				t.Errorf("%s: the role is %s", what, role)
			}
			binding := all["RoleBinding "+c.account+"-scc"]
			if got := fmt.Sprint(binding["subjects"], binding["roleRef"]); !strings.Contains(got, "name:"+c.account+" ") || !strings.Contains(got, "name:"+c.account+"-scc") {
				t.Errorf("%s: the binding is %s", what, got)
			}
		}
		// It gives no more than that.
		for _, change := range []func(*constraint){
			func(c *constraint) { c.AllowHostNetwork = false },
			func(c *constraint) { c.AllowHostPorts = false },
			func(c *constraint) { c.Volumes = []string{"secret"} },
		} {
			less := ours
			change(&less)
			if less.refuses(podsOf(t, all["DaemonSet belfry-speaker"])) == nil {
				t.Errorf("%s: the speakers need not all of it: %+v", what, less)
			}
		}
		if ours.AllowPrivilegedContainer || ours.AllowPrivilegeEscalation || ours.AllowHostPID || ours.AllowHostIPC || ours.AllowHostDirVolumePlugin {
			t.Errorf("%s: it gives what nobody needs: %+v", what, ours)
		}
	}
}
