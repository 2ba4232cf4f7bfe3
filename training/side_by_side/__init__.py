"""Finished runs side by side: is one of them better?"""
