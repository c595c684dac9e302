// Checks rendered manifests: each object decodes strictly as the API's own type, and the admission
// policy decides as meant.
//
//	validate FILE-WITHOUT-SUFFIX…
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	node "k8s.io/api/node/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// The type of each kind that the chart may have.
var kinds = map[string]func() any{
	"v1/ServiceAccount":                               func() any { return new(core.ServiceAccount) },
	"v1/Pod":                                          func() any { return new(core.Pod) },
	"apps/v1/DaemonSet":                               func() any { return new(apps.DaemonSet) },
	"node.k8s.io/v1/RuntimeClass":                     func() any { return new(node.RuntimeClass) },
	"rbac.authorization.k8s.io/v1/Role":               func() any { return new(rbac.Role) },
	"rbac.authorization.k8s.io/v1/RoleBinding":        func() any { return new(rbac.RoleBinding) },
	"rbac.authorization.k8s.io/v1/ClusterRole":        func() any { return new(rbac.ClusterRole) },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": func() any { return new(rbac.ClusterRoleBinding) },
	"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy": func() any {
		return new(admission.ValidatingAdmissionPolicy)
	},
	"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding": func() any {
		return new(admission.ValidatingAdmissionPolicyBinding)
	},
}

func main() {
	var faults []string
	for _, name := range os.Args[1:] {
		text, err := os.ReadFile(name + ".yaml")
		if err != nil {
			faults = append(faults, err.Error())
			continue
		}
		for _, document := range bytes.Split(text, []byte("\n---")) {
			for _, fault := range check(document) {
				faults = append(faults, name+": "+fault)
			}
		}
	}
	for _, fault := range faults {
		fmt.Println(fault)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}

func check(document []byte) []string {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(document, &head); err != nil {
		return []string{err.Error()}
	}
	if head.Kind == "" {
		return nil
	}
	about := head.Kind + " " + head.Metadata.Name + ": "
	make := kinds[head.APIVersion+"/"+head.Kind]
	if make == nil {
		return []string{about + "unexpected kind of " + head.APIVersion}
	}
	object := make()
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return []string{about + err.Error()}
	}
	var faults []string
	for _, text := range validation.IsDNS1123Subdomain(head.Metadata.Name) {
		faults = append(faults, about+text)
	}
	for key, value := range head.Metadata.Labels {
		for _, text := range append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...) {
			faults = append(faults, about+key+": "+text)
		}
	}
	switch object := object.(type) {
	case *apps.DaemonSet:
		faults = append(faults, daemonSet(object)...)
	case *core.Pod:
		faults = append(faults, privileges(about, &object.Spec, false)...)
	case *node.RuntimeClass:
		faults = append(faults, runtimeClass(about, object)...)
	case *admission.ValidatingAdmissionPolicy:
		faults = append(faults, policy(object)...)
	}
	return faults
}

func daemonSet(set *apps.DaemonSet) []string {
	faults := privileges("DaemonSet: ", &set.Spec.Template.Spec, true)
	for key, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[key] != value {
			faults = append(faults, "DaemonSet: the selector's "+key+" is not the pods'")
		}
	}
	return faults
}

// What no container may have, and what the installer alone may.
func privileges(about string, spec *core.PodSpec, installer bool) []string {
	var faults []string
	say := func(text string) { faults = append(faults, about+text) }
	// A command that restarts a daemon of the host runs in the namespaces of the host.
	restarts := false
	for _, container := range spec.InitContainers {
		restarts = restarts || installer && strings.Contains(strings.Join(container.Args, " "), "--restart-command")
	}
	// containerd reaches the mirror on the node's loopback.
	mirror := installer && len(spec.InitContainers) == 0 && len(spec.Containers) == 1 && spec.Containers[0].Name == "mirror"
	if spec.HostPID && !restarts || spec.HostNetwork && !mirror || spec.HostIPC {
		say("it shares a namespace with the host")
	}
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		say("every container gets the token")
	}
	for _, volume := range spec.Volumes {
		if volume.HostPath != nil && !installer {
			say("it mounts the host's files")
		}
	}
	for _, container := range spec.Containers {
		for _, mount := range container.VolumeMounts {
			if mount.Name == "host" {
				say("the container " + container.Name + " mounts the host's files")
			}
		}
		// A compiler confines itself.
		watch := installer && strings.HasPrefix(container.Name, "watch-")
		if security := container.SecurityContext; security == nil || security.Capabilities == nil || len(security.Capabilities.Add) > 0 && !watch {
			say("the container " + container.Name + " has capabilities")
		}
	}
	for _, container := range append(spec.InitContainers, spec.Containers...) {
		security := container.SecurityContext
		if installer && strings.Contains(strings.Join(container.Args, " "), "--restart-command") {
			// Such a command starts a daemon of the host.
			continue
		}
		if security == nil || security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation ||
			security.Privileged != nil && *security.Privileged ||
			security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem {
			say("the container " + container.Name + " is not confined")
		}
		for _, arg := range container.Args {
			if strings.Contains(arg, "<no value>") {
				say("an argument without value: " + arg)
			}
		}
	}
	return faults
}

func runtimeClass(about string, class *node.RuntimeClass) []string {
	var faults []string
	for _, text := range validation.IsDNS1123Label(class.Handler) {
		faults = append(faults, about+"handler: "+text)
	}
	if class.Overhead == nil || class.Overhead.PodFixed.Memory().Cmp(resource.MustParse("1Mi")) < 0 {
		faults = append(faults, about+"no overhead")
	}
	return faults
}
