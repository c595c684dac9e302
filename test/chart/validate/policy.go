// The admission policy's expressions, evaluated for changes that must pass and for those that must
// not.
package main

import (
	"fmt"

	"github.com/google/cel-go/cel"
	admission "k8s.io/api/admissionregistration/v1"
)

type object = map[string]any

// A node of this name with these labels.
func machine(name string, labels object) object {
	return object{
		"metadata": object{"name": name, "labels": labels, "annotations": object{"a": "b"}},
		"spec":     object{"podCIDR": "10.0.0.0/24"},
	}
}

func request(node string) object {
	extra := object{"authentication.kubernetes.io/node-name": []string{node}}
	return object{"userInfo": object{"username": "system:serviceaccount:x:y", "extra": extra}}
}

func policy(policy *admission.ValidatingAdmissionPolicy) []string {
	env, err := cel.NewEnv(
		cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType), cel.Variable("request", cel.DynType))
	if err != nil {
		return []string{err.Error()}
	}
	before := func() object { return machine("n1", object{"os": "linux", "wherry/wamr": "true"}) }
	annotated := machine("n1", object{"os": "linux", "wherry/wamr": "true"})
	annotated["metadata"].(object)["annotations"] = object{"a": "c"}
	tainted := machine("n1", object{"os": "linux", "wherry/wamr": "true"})
	tainted["spec"] = object{"unschedulable": true}
	bare := object{"userInfo": object{"username": "system:serviceaccount:x:y"}}
	cases := []struct {
		name    string
		object  object
		request object
		allowed bool
	}{
		{"a label of ours comes", machine("n1", object{"os": "linux", "wherry/wamr": "true", "wherry/wasmtime": "true"}), request("n1"), true},
		{"a label of ours goes", machine("n1", object{"os": "linux"}), request("n1"), true},
		{"a token without the claim", machine("n1", object{"os": "linux"}), bare, true},
		{"another node", machine("n1", object{"os": "linux"}), request("n2"), false},
		{"another label comes", machine("n1", object{"os": "linux", "wherry/wamr": "true", "role": "x"}), request("n1"), false},
		{"another label changes", machine("n1", object{"os": "plan9", "wherry/wamr": "true"}), request("n1"), false},
		{"another label goes", machine("n1", object{"wherry/wamr": "true"}), request("n1"), false},
		{"an annotation changes", annotated, request("n1"), false},
		{"the node is cordoned", tainted, request("n1"), false},
	}
	var faults []string
	for _, one := range cases {
		allowed := true
		for _, validation := range policy.Spec.Validations {
			good, err := evaluate(env, validation.Expression, object{
				"object": one.object, "oldObject": before(), "request": one.request,
			})
			if err != nil {
				faults = append(faults, fmt.Sprintf("policy: %s: %v: %s", one.name, err, validation.Expression))
			}
			allowed = allowed && good
		}
		if allowed != one.allowed {
			faults = append(faults, fmt.Sprintf("policy: %s: allowed %v, expected %v", one.name, allowed, one.allowed))
		}
	}
	for _, condition := range policy.Spec.MatchConditions {
		if _, err := evaluate(env, condition.Expression, object{"request": request("n1"), "object": before(), "oldObject": before()}); err != nil {
			faults = append(faults, "policy: "+err.Error())
		}
	}
	return faults
}

func evaluate(env *cel.Env, expression string, values object) (bool, error) {
	ast, issues := env.Compile(expression)
	if issues != nil && issues.Err() != nil {
		return false, issues.Err()
	}
	program, err := env.Program(ast)
	if err != nil {
		return false, err
	}
	value, _, err := program.Eval(values)
	if err != nil {
		return false, err
	}
	return value.Value() == true, nil
}
