package lab

import (
	"context"
	"fmt"
	"os/exec"
)

// KubectlCommand prepares kubectl as the admin.
func (l *Lab) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return l.Command(ctx, l.controlPlaneHost(), append([]string{l.state.Programs["kubectl"], "--kubeconfig=" + l.AdminKubeconfig()}, args...)...)
}

// Hints says how to use a run by hand.
func (l *Lab) Hints() string {
	if l.state.Options.ControlPlaneOnly {
		return fmt.Sprintf(`
kubectl:    %s --kubeconfig=%s get --raw /version
logs:       %s
end:        go run ./hack/lab/cmd/lab down --lab %s
`, l.state.Programs["kubectl"], l.AdminKubeconfig(), l.LogDir(), l.Name)
	}
	return fmt.Sprintf(`
kubectl:    alias k='nsenter --net=%s %s --kubeconfig=%s'; k get nodes -o wide
curl:       ip netns exec %s curl http://ADDRESS/
tcpdump:    ip netns exec %s tcpdump -ni eth0 arp or icmp6
any host:   ip netns list | grep %s
faults:     go run ./hack/lab/cmd/lab help
logs:       %s
end:        go run ./hack/lab/cmd/lab down --lab %s
`, l.netnsPath(ControlPlane), l.state.Programs["kubectl"], l.AdminKubeconfig(), l.Netns(Client), l.Netns(Client), l.Name, l.LogDir(), l.Name)
}
